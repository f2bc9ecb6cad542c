"""The GPU benchmark, small and on whatever device is here: it must run where only its few packages are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import gpu_cifar10

PROGRAM = """
import runpy, sys

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("pydantic", "prefect", "mlflow", "great_expectations"):
            raise ModuleNotFoundError(f"{name} is not on that machine")

sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for split, images in (("train", 6), ("test", 2)):
        for label in range(10):
            (tmp_path / split / f"class{label}").mkdir(parents=True)
            for number in range(images):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / f"class{label}" / f"{number}.png")
    return tmp_path


def test_both_sides_run_with_few_packages(folder: Path) -> None:
    script = str(Path(__file__).parents[2] / "benchmarks" / "gpu_cifar10.py")
    command = [sys.executable, "-c", PROGRAM, script, "--data", str(folder), "--smoke"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    for side in ("ours", "recipe"):
        assert len(result[side]["accuracies"]) == 2
        assert result[side]["images_per_second"] > 0
        assert result[side]["seconds"] >= result[side]["first_epoch_seconds"]


def test_data_of_another_layout_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_cifar10", "--data", str(tmp_path), "--smoke"])
    assert gpu_cifar10.main() == 2
    assert "there are no images in train/; expected train/ and test/" in capsys.readouterr().err
