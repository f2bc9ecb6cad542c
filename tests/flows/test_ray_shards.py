"""Tuning, ingest and batch inference on a real Ray cluster of this machine come to what they come to without it.

Ray starts once, for all tests of this file but the first, which asks for a cluster that does not answer.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from free_ports import free_ports
from malformed import encode
from mlflow import MlflowClient
from registered import DECLARATION
from small_runs import invoke
from small_versions import write_version
from test_tuning import STRIPS

from flows.tuning import tuning
from labline.data.ingest import ingest
from labline.engine import Engine
from labline.sharding import Pool
from labline.usecase import Data
from tasks.cluster import joined
from tasks.environment import storage_root
from tasks.observer import Observer, observer
from tasks.predict import predict
from tasks.shards import pool_of
from tasks.version import Version

pytest.importorskip("ray", reason="needs Ray: pip install 'labline[ray]'")
pytest.importorskip("prefect_ray", reason="needs prefect-ray: pip install 'labline[ray]'")

RAY = Engine(kind="ray")
SIZE = 16
TRIALS, EPOCHS = 4, 20
SEARCHED = STRIPS.replace('name = "strips"', 'name = "ray-strips"').replace("epochs = 6", f"epochs = {EPOCHS}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    from ray.cloudpickle import register_pickle_by_value

    with joined(RAY):
        register_pickle_by_value(sys.modules[__name__])  # workers could not import tests
        yield


@pytest.fixture
def pool(cluster: None) -> Iterator[Pool]:
    with pool_of(RAY) as found:
        assert found is not None
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,400 images in two classes, of which some are broken in ways of their own."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for label, grey in (("bright", 170), ("dark", 80)):
        (root / label).mkdir()
        for number in range(700):
            pixels = random.normal(grey, 25, (SIZE, SIZE, 1)).clip(0, 255).astype(np.uint8)
            encoded = encode(pixels, "PNG" if number % 2 else "JPEG")
            (root / label / f"{number:03}.png").write_bytes(encoded[:60] if number % 250 == 7 else encoded)
    (root / "bright" / "empty.png").write_bytes(b"")
    (root / "dark" / "notes.txt").write_text("not an image")
    return root


def searched(path: Path, **options: Any) -> dict[str, Any]:
    return tuning(str(path), trials=TRIALS, **options)


def test_a_cluster_that_does_not_answer_is_told(servers: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "strips.toml"
    path.write_text(SEARCHED)
    (port,) = free_ports(1)
    ended = invoke("tune", str(path), "--engine", "ray", "--address", f"127.0.0.1:{port}", "--json")
    assert ended.code == 2
    assert f"127.0.0.1:{port}" in ended.summary["error"] and "no Ray cluster answers" in ended.summary["error"]


def test_ingest_on_ray_makes_the_same_dataset(pool: Pool, folder: Path, tmp_path: Path) -> None:
    settings = Data(source="image-folder", path=str(folder), image_size=SIZE, channels=1)
    here, there = tmp_path / "here", tmp_path / "there"
    seen: list[tuple[int, int]] = []
    local = ingest(settings, here, workers=1)
    assert local.quarantined == 8, "three of each class are cut off, one is empty, one is none"
    assert ingest(settings, there, pool=pool, on_progress=lambda *done: seen.append(done)) == local
    assert len(seen) == 3 and seen[-1] == (1401, 1401), "it came in shards"
    for name in ("images.npy", "manifest.parquet", "quarantine.parquet", "dataset.json"):
        assert (there / name).read_bytes() == (here / name).read_bytes()


@contextmanager
def dying_once(traces: Path) -> Iterator[Callable[[int], int]]:
    """Ends its process in the middle of shard 3 when that is tried for the first time."""

    def work(shard: int) -> int:
        trace = traces / str(shard)
        first = not trace.exists()
        with trace.open("a") as file:
            file.write("tried\n")
        if shard == 3 and first:
            os.kill(os.getpid(), signal.SIGKILL)
        return shard * shard

    yield work


def test_the_shard_of_a_worker_that_was_killed_is_done_again(pool: Pool, tmp_path: Path) -> None:
    assert list(pool.over(dying_once, tmp_path, range(6))) == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "3").read_text() == "tried\ntried\n"


@contextmanager
def refusing(told: str) -> Iterator[Callable[[int], int]]:
    def work(shard: int) -> int:
        raise OSError(errno.ENOSPC, told)

    yield work


def test_what_a_shard_raises_comes_back_as_it_was(pool: Pool) -> None:
    with pytest.raises(OSError, match="no space") as raised:
        list(pool.over(refusing, "no space", range(6)))
    assert type(raised.value) is OSError and raised.value.errno == errno.ENOSPC


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    written = write_version(tmp_path_factory.mktemp("model") / "version", 0.05, DECLARATION, SIZE)
    return Version("parts", "1", "", {}, written)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_batch_inference_on_ray_writes_the_same_file(
    cluster: None, version: Version, folder: Path, tmp_path: Path, suffix: str
) -> None:
    here, there = tmp_path / f"here{suffix}", tmp_path / f"there{suffix}"
    local = predict.fn(version, folder, here, workers=1)
    on_ray = predict.fn(version, folder, there, engine=RAY)
    assert (on_ray.samples, on_ray.answered, on_ray.refused) == (local.samples, local.answered, local.refused)
    assert on_ray.refused == 8
    assert there.read_bytes() == here.read_bytes()
    assert on_ray.quarantine and local.quarantine
    assert on_ray.quarantine.read_bytes() == local.quarantine.read_bytes()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {path.name for path in (here, there, on_ray.quarantine, local.quarantine)}


class Impatient(Observer):
    """Breaks off as soon as something is done, as Ctrl-C does."""

    def progressed(self, stage: str, done: float, total: float, text: str) -> None:
        raise KeyboardInterrupt


def test_what_was_broken_off_on_ray_is_gone_on_with_here(
    cluster: None, version: Version, folder: Path, tmp_path: Path
) -> None:
    out, expected = tmp_path / "answers.csv", tmp_path / "expected.csv"
    token = observer.set(Impatient())
    with pytest.raises(KeyboardInterrupt):
        predict.fn(version, folder, out, engine=RAY)
    observer.reset(token)
    assert not out.exists()
    predicted = predict.fn(version, folder, out, workers=1)
    assert predicted.resumed >= 512
    predict.fn(version, folder, expected, workers=1)
    assert out.read_bytes() == expected.read_bytes()


def process_of(study: str, index: int) -> int:
    """The id of the process that trained a trial last."""
    from optuna import load_study

    from labline.tuning.study import open_storage

    found = load_study(study_name=study, storage=open_storage(os.environ["LABLINE_TUNING"]))
    (trial,) = (each for each in found.get_trials() if each.user_attrs.get("index") == index)
    return int(trial.user_attrs["process"][0])


def kill_the_trial(usecase: str, index: int, killed: list[int]) -> None:
    """End the worker that trains a trial without warning, as soon as an epoch of it is on disk; notes its id."""
    import optuna  # noqa: F401  (before the trial runs: it does not wait for this)

    while not (checkpoints := list(storage_root().glob(f"tuning/{usecase}-*/{index}.checkpoint.pt"))):
        time.sleep(0.01)
    killed.append(process_of(checkpoints[0].parent.name, index))
    os.kill(killed[0], signal.SIGKILL)


def test_four_trials_at_once_on_ray_come_to_what_they_come_to_here(
    servers: dict[str, str], cluster: None, tmp_path: Path
) -> None:
    path = tmp_path / "ray-strips.toml"
    path.write_text(SEARCHED)
    unpruned = ['tuning.pruner="none"']
    killed: list[int] = []
    killer = threading.Thread(target=kill_the_trial, args=("ray-strips", 2, killed), daemon=True)
    killer.start()
    on_ray = searched(path, parallel=4, assignments=[*unpruned, 'engine.kind="ray"'])
    killer.join(60)
    assert process_of(on_ray["study"], 2) != killed[0], "another worker took it up"
    os.environ["LABLINE_TUNING"] = f"sqlite:///{tmp_path}/here.db"
    here = searched(path, assignments=unpruned)

    assert on_ray["study"] == here["study"], "who computes decides nothing"
    seen = [
        [(trial["settings"], trial["metric"], trial["state"]) for trial in each["trials"]] for each in (on_ray, here)
    ]
    assert seen[0] == seen[1]
    client = MlflowClient()
    for trial in on_ray["trials"]:
        run = client.get_run(trial["run"])
        assert run.data.tags["mlflow.parentRunId"] == on_ray["run_id"] and run.info.status == "FINISHED"
        epochs = [point.step for point in client.get_metric_history(trial["run"], "validation_accuracy")]
        assert sorted(epochs) == list(range(1, EPOCHS + 1)), "each epoch once, also of the one that was killed"
