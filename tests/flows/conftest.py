"""Small runs of the real flow: the renderer's own data, or images written by the tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import Ended, command, embedded


@pytest.fixture
def labline(tmp_path: Path) -> Callable[..., Ended]:
    """Runs a labline command on the embedded default, in a process of its own."""

    def run(*arguments: str, store: Path = tmp_path / "store", cwd: Path | None = None) -> Ended:
        done = subprocess.run(command(*arguments), env=embedded(store), cwd=cwd, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A declaration beside a folder of 240 images: bright and dark parts."""
    random = np.random.default_rng(0)
    for label, grey in (("bright", 170), ("dark", 80)):
        folder = tmp_path / "parts" / label
        folder.mkdir(parents=True)
        for number in range(120):
            pixels = random.normal(grey, 25, (24, 24)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03}.png")
    declaration = tmp_path / "parts.toml"
    declaration.write_text(
        f"""
name = "parts"
title = "Parts"
[data]
source = "image-folder"
path = "{tmp_path}/parts"
image_size = 24
channels = 1
[cleaning]
label_issues = "off"
[compression]
passes = []
[training]
epochs = 2
batch_size = 16
"""
    )
    return declaration
