"""Batch inference as a task: resumed, never half-written, and refused where it cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from filelock import FileLock
from registered import DECLARATION
from running_service import VOLATILITY, write_forecaster
from small_versions import write_version

from labline.errors import BadInput
from tasks.predict import predict
from tasks.version import Version

SIZE = 16
POINT = VOLATILITY.replace('head = "gaussian"', 'head = "point"')


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    folder = write_version(tmp_path_factory.mktemp("model") / "version", 0.05, DECLARATION, SIZE)
    return Version("parts", "1", "", {}, folder)


@pytest.fixture
def pixels(tmp_path: Path) -> Path:
    """1,200 images: three chunks."""
    path = tmp_path / "pixels.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (1200, SIZE, SIZE, 1), dtype=np.uint8))
    return path


def test_answers_appear_whole_and_nothing_else_is_left(version: Version, pixels: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.parquet"
    predicted = predict.fn(version, pixels, out, workers=1)
    assert (predicted.samples, predicted.answered, predicted.refused, predicted.resumed) == (1200, 1200, 0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.parquet", "pixels.npy"]
    assert pd.read_parquet(out)["row"].tolist() == list(range(1200))


def test_a_folder_of_somebody_elses_is_left_alone(version: Version, pixels: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "answers.parquet.parts" / "notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("keep")
    with pytest.raises(BadInput, match="holds files that labline predict did not write"):
        predict.fn(version, pixels, tmp_path / "answers.parquet", workers=1)
    assert [path.name for path in theirs.parent.iterdir()] == ["notes.txt"]


SLOWLY = """
import sys, time
from pathlib import Path
from labline import batch_inference
from tasks.predict import predict
from tasks.version import Version

answers = batch_inference._answers
batch_inference._answers = lambda *given: time.sleep(0.3) or answers(*given)
folder, source, out = map(Path, sys.argv[1:])
predict.fn(Version("parts", "1", "", {}, folder), source, out, workers=1)
"""


def test_a_run_that_was_killed_goes_on(version: Version, pixels: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    parts = tmp_path / "answers.csv.parts"
    running = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(version.folder), str(pixels), str(out)],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    deadline = time.monotonic() + 180
    while not list(parts.glob("0*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not out.exists(), "half a file is none"

    finished = len(list(parts.glob("0*")))
    assert 1 <= finished < 3
    predicted = predict.fn(version, pixels, out, workers=1)
    assert (predicted.resumed, predicted.answered) == (512 * finished, 1200)
    assert pd.read_csv(out)["row"].tolist() == list(range(1200))
    assert not parts.exists()


def test_parts_of_another_input_or_batch_size_and_a_fresh_run_begin_anew(
    version: Version, pixels: Path, tmp_path: Path
) -> None:
    out, parts = tmp_path / "answers.parquet", tmp_path / "answers.parquet.parts"
    expected = None
    for change in ("nothing", "batch size", "input", "fresh"):
        parts.mkdir()
        (parts / "key").write_text("of another run")
        (parts / "00000000.answers.parquet").write_bytes(b"of another run")
        if change == "input":
            os.utime(pixels)
        batch_size = 32 if change == "batch size" else 64
        predicted = predict.fn(version, pixels, out, batch_size, workers=1, fresh=change == "fresh")
        assert predicted.resumed == 0
        answers = pd.read_parquet(out)
        if expected is not None:
            assert np.allclose(answers["confidence"], expected["confidence"], atol=1e-6)
        expected = answers


def test_a_series_is_forecast_row_by_row(tmp_path: Path) -> None:
    import arch.data.sp500

    version = Version("volatility", "4", "", {}, write_forecaster(tmp_path / "version", POINT))
    prices = arch.data.sp500.load().rename_axis("date").reset_index().tail(700)
    prices.to_csv(tmp_path / "prices.csv", index=False)
    out = tmp_path / "forecasts.csv"
    predicted = predict.fn(version, tmp_path / "prices.csv", out, workers=2)
    assert (predicted.samples, predicted.answered, predicted.refused) == (700, 680, 20)
    assert predicted.quarantine is not None
    answers = pd.read_csv(out, parse_dates=["timestamp"])
    assert answers.columns.tolist() == ["timestamp", "entity", "forecast_mean", "version"]
    assert answers["timestamp"].is_monotonic_increasing and set(answers["entity"]) == {"prices"}
    refused = pd.read_parquet(predicted.quarantine)
    assert set(refused["expectation"]) == {"complete window"}
    children = [" ".join(child.cmdline()) for child in psutil.Process().children()]
    assert not [line for line in children if "spawn_main" in line], "the answering processes have ended"


def test_places_that_cannot_be_written_are_refused(version: Version, pixels: Path, tmp_path: Path) -> None:
    inside = tmp_path / "images"
    inside.mkdir()
    for source, out, told in [
        (pixels, tmp_path / "answers.txt", "expected a file that ends in .parquet or .csv"),
        (pixels, tmp_path / "gone" / "answers.csv", "there is no folder"),
        (inside, inside / "answers.csv", "lies in INPUT"),
        (tmp_path / "gone", tmp_path / "answers.csv", "there is nothing at"),
    ]:
        with pytest.raises(BadInput, match=told):
            predict.fn(version, source, out)
    (tmp_path / "answers.csv.parts").mkdir(exist_ok=True)
    with FileLock(tmp_path / "answers.csv.parts" / ".lock"), pytest.raises(BadInput, match="another labline predict"):
        predict.fn(version, pixels, tmp_path / "answers.csv")
