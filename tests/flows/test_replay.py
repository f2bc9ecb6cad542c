"""`labline replay` against a service that really runs: answers, late labels, interruptions."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from registered import DECLARATION, environment, register
from running_service import KEY, USECASE, VOLATILITY, Running, prepare, running, write_classifier, write_forecaster
from small_runs import command

from flows.replay import _stream as stream_of
from flows.replay import parse_rate, run_replay
from flows.replaying import Outcome, Plan, replay
from labline.data.dataset import write_dataset
from labline.errors import BadInput, LablineError
from labline.feedback import FeedbackStore
from labline.replay import Labelling, Sample
from tasks.version import Version

RAW = "application/octet-stream"
POINT = VOLATILITY.replace('head = "gaussian"', 'head = "point"')
LABELS = ("dark", "bright")
NAME = "replayed-parts"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("service")
    with running(prepare(root, production=write_classifier(root / "version"))) as started:
        yield started


def images(truth: str | None = None) -> Iterator[Sample]:
    """Images of 8 x 8 pixels, bright and dark in turn; or all said to be of one class."""
    for number in count():
        label = LABELS[number % 2]
        yield Sample(bytes([60 if label == "dark" else 200]) * 64, RAW, f"image {number}", truth or label)


def replayed(service: Running, samples: Iterator[Sample], **changes: object) -> Outcome:
    options = {"rate": math.inf, "most": 40, "key": service.settings.key, "patience": 20, **changes}
    plan = Plan(f"http://127.0.0.1:{service.port}", **options)
    return asyncio.run(replay(lambda described: samples, plan, lambda outcome: None))


def stored(service: Running, named: str, labelled: int) -> list[dict[str, object]]:
    """What the feedback store has of the samples with this reference, once so many have a label."""
    store = FeedbackStore(service.settings.feedback)
    for _ in range(200):
        rows = store.window(USECASE)
        rows = rows[rows["source"].str.startswith(named)]
        if rows["label"].notna().sum() >= labelled:
            return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
        time.sleep(0.05)
    raise AssertionError(f"{rows['label'].notna().sum()} of {labelled} labels were stored")


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_answers_are_counted_and_labels_arrive(service: Running) -> None:
    told = replayed(service, images()).summary()
    assert (told["sent"], told["answered"], told["labels_accepted"], told["labels_pending"]) == (40, 40, 40, 0)
    assert told["versions"] == {"1": {"answered": 40, "accuracy": 1.0}}
    assert told["latency_ms_p50"] > 0 and told["refused"] == told["retries"] == 0
    rows = stored(service, "image", 40)
    assert {(row["label"], row["label_source"]) for row in rows if row["answer"] == "dark"} == {("dark", "replay")}


def test_labels_come_late_and_not_for_all_and_accuracy_is_by_the_truth(service: Running) -> None:
    labelling = Labelling(share=0.5, wrong=1.0)
    begun = time.monotonic()
    told = replayed(service, images(), label_delay=1.0, labelling=labelling, most=30).summary()
    assert time.monotonic() - begun >= 1.0
    assert told["accuracy"] == 1.0, "labels lie, the summary does not"
    assert 0 < told["labels_accepted"] < 30


def test_a_label_waits_until_it_can_be_known(service: Running) -> None:
    samples = (Sample(bytes(64), RAW, f"later {n}", "dark", known_after=5) for n in count())
    told = replayed(service, samples, most=12).summary()
    assert (told["labels_accepted"], told["labels_pending"]) == (7, 5)


def test_the_rate_is_kept_and_the_duration_ends_it(service: Running) -> None:
    told = replayed(service, images(), rate=40, most=1000, seconds=0.5).summary()
    assert told["sent"] == 20


def test_what_the_service_refuses_is_told_in_its_words(service: Running) -> None:
    samples = (Sample(bytes(63), RAW, "short", "dark") for _ in count())
    told = replayed(service, samples, most=3).summary()
    assert (told["answered"], told["refused"]) == (0, 3)
    assert "63 bytes are no whole number of images" in next(iter(told["refusals"]))
    told = replayed(service, images(truth="dent"), most=3).summary()
    assert told["labels_refused"] == 3 and "none that the model knows" in next(iter(told["label_refusals"]))
    assert told["accuracy"] == 0.0


def test_a_forecaster_is_judged_by_realised_targets(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.full((20, 2), 0.25, np.float32))
    samples = (Sample(file.getvalue(), "application/x-npy", f"day {n}", 0.75) for n in count())
    with running(prepare(tmp_path, production=write_forecaster(tmp_path / "version", POINT))) as service:
        told = replayed(service, samples, most=5).summary()
        assert told["versions"] == {"1": {"answered": 5, "mean_squared_error": pytest.approx(0.25)}}
        assert told["accuracy"] is None
        assert {row["label"] for row in stored(service, "day", 5)} == {"0.75"}


def test_a_service_that_is_killed_and_comes_back_is_asked_again(tmp_path: Path) -> None:
    settings = prepare(tmp_path, production=write_classifier(tmp_path / "version"))
    seen: list[Outcome] = []
    with running(settings) as first:
        plan = Plan(f"http://127.0.0.1:{first.port}", rate=100, most=150, key=KEY, patience=60)
        asking = threading.Thread(target=lambda: asyncio.run(replay(lambda _: images(), plan, seen.append)))
        asking.start()
        wait_for(lambda: len(seen) > 20)
        first.process.kill()
        first.process.wait()
        wait_for(lambda: seen[0].retries > 0)
    with running(settings, port=first.port):
        asking.join(60)
    told = seen[0].summary()
    assert (told["answered"], told["labels_accepted"], told["accuracy"]) == (150, 150, 1.0)


def test_a_service_that_does_not_come_back_ends_it(tmp_path: Path) -> None:
    def kill(outcome: Outcome) -> None:
        if outcome.sent > 10:
            started.process.kill()

    with running(prepare(tmp_path, production=write_classifier(tmp_path / "version"))) as started:
        plan = Plan(f"http://127.0.0.1:{started.port}", rate=100, most=150, key=KEY, patience=0.5)
        with pytest.raises(LablineError, match="gave no answer for 0.5 s"):
            asyncio.run(replay(lambda _: images(), plan, kill))


def test_no_service_a_wrong_key_and_something_else(service: Running) -> None:
    with pytest.raises(BadInput, match="wants another key"):
        replayed(service, images(), key="wrong")
    with pytest.raises(LablineError, match="gave no answer for 0.2 s"):
        asyncio.run(replay(lambda _: images(), Plan("http://127.0.0.1:1", 1, 1, patience=0.2), lambda outcome: None))
    elsewhere = Plan(f"http://127.0.0.1:{service.port}/elsewhere", 1, 1, key=KEY)
    with pytest.raises(BadInput, match="labline serve was expected there, 404"):
        asyncio.run(replay(lambda _: images(), elsewhere, lambda outcome: None))


OPTIONS = {
    "url": "http://127.0.0.1:1",
    "key_file": None,
    "rate": "20/s",
    "count": None,
    "duration": None,
    "since": None,
    "drift": [],
    "drift_ramp": 0,
    "label_delay": 0,
    "label_share": 1,
    "wrong_labels": 0,
    "seed": 1,
    "concurrency": 16,
    "form": "raw",
    "patience": 1,
}


def version_of(folder: Path, declaration: str, **tags: str) -> Version:
    (folder / "extra_files").mkdir(parents=True)
    (folder / "extra_files" / "usecase.toml").write_text(declaration)
    return Version("parts", "3", "", tags, folder)


def test_the_test_split_that_the_version_was_judged_on_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABLINE_STORE", str(tmp_path))
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    manifest = pd.DataFrame(
        {
            "sample_id": [f"{n}.png" for n in range(6)],
            "split": ["train", "test", "test", "validation", "train", "test"],
            "label": ["dark", "dark", "bright"] * 2,
            "row": range(6),
            "sha256": [str(n) for n in range(6)],
        }
    )
    (tmp_path / "data").mkdir()
    digest = write_dataset(tmp_path / "data", manifest, LABELS, tmp_path / "images.npy")
    declaration = DECLARATION.replace('"surfaces"', '"image-folder"\npath = "/nowhere"')
    version = version_of(tmp_path / "version", declaration, **{"dataset.directory": "data", "dataset.digest": digest})

    stream = stream_of(version, OPTIONS, seed=0)
    assert (stream.usual, stream.source) == (3, "test split of version 3")
    sent = {sample.name: (sample.truth, sample.body) for sample in islice(stream.samples, 3)}
    assert sent == {f"{n}.png": (manifest["label"][n], pixels[n].tobytes()) for n in (1, 2, 5)}

    with pytest.raises(BadInput, match="have no 'duplicates'"):
        stream_of(version, OPTIONS | {"drift": ["duplicates=0.5"]}, seed=0)
    with pytest.raises(BadInput, match="--from is for a series"):
        stream_of(version, OPTIONS | {"since": "2007-01-01"}, seed=0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"drift": ["lighting=0.5"]}, "the drift of a series is in its dates"),
        ({"wrong_labels": 0.5}, "this version forecasts numbers"),
        ({"since": "yesterday"}, "expected a day in ISO 8601"),
    ],
)
def test_what_a_series_cannot_be_asked_for_is_refused(change: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=told):
        stream_of(version_of(tmp_path, VOLATILITY), OPTIONS | change, seed=0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"url": "127.0.0.1:8080"}, "expected an address such as http://"),
        ({"rate": "often"}, "requests a second were expected"),
        ({"key_file": Path("gone")}, "a text file with the key alone was expected"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_fetched(change: dict[str, object], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        run_replay("parts", OPTIONS | change, json=False)


@pytest.mark.parametrize(
    ("written", "rate"), [("20", 20), ("20/s", 20), ("90/m", 1.5), ("1800/h", 0.5), ("max", math.inf)]
)
def test_rates(written: str, rate: float) -> None:
    assert parse_rate(written) == rate


@pytest.mark.parametrize("written", ["", "fast", "0/s", "-1", "5/d"])
def test_rates_that_are_none(written: str) -> None:
    with pytest.raises(BadInput, match="requests a second were expected"):
        parse_rate(written)


def test_from_the_command_line_until_ctrl_c(servers: dict[str, str], tmp_path: Path) -> None:
    register(NAME, tmp_path / "version")
    with _served() as address:
        options = ["--rate", "100/s", "--duration", "600", "--drift", "lighting=0.5", "--drift-ramp", "10", "--json"]
        asking = subprocess.Popen(
            command("replay", NAME, "--url", address, *options),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        kept = FeedbackStore(os.environ["LABLINE_FEEDBACK"])
        wait_for(lambda: kept.counts(NAME).predictions >= 50)
        asking.send_signal(signal.SIGINT)
        out, err = asking.communicate(timeout=60)
    assert asking.returncode == 130 and "Traceback" not in err
    told = json.loads(out.splitlines()[-1])
    assert told["interrupted"] and told["source"] == "rendered anew"
    assert told["answered"] >= 50 and told["labels_accepted"] > 0
    assert "accuracy 0.0000 by the true labels" in err, "this version knows other classes"


@contextmanager
def _served() -> Iterator[str]:
    serving = subprocess.Popen(
        command("serve", NAME, "--port", "0", "--json"), env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert serving.stdout is not None
        yield json.loads(serving.stdout.readline())["address"]
    finally:
        serving.terminate()
        serving.wait(60)
