"""Killed in the middle of training, run again: the same model as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from small_runs import SMALL, command, embedded

LONGER = [*SMALL, "training.epochs=8", "data.options={samples=1500}"]
ARGUMENTS = ["run", "surface", "--json", *(word for setting in LONGER for word in ("--set", setting))]


@pytest.fixture
def orphans() -> Iterator[None]:
    """Ends the embedded Prefect server that a killed run leaves behind."""
    yield
    for process in psutil.process_iter(["ppid", "cmdline"]):
        if process.info["ppid"] == 1 and "prefect.server.api.server:create_app" in (process.info["cmdline"] or []):
            process.kill()


def start(store: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*ARGUMENTS), env=embedded(store), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_checkpoint(store: Path, running: subprocess.Popen[str]) -> None:
    while not list(store.glob("stages/train/*.partial/checkpoint.pt")):
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.02)


def weights(store: Path) -> str:
    (file,) = store.glob("stages/train/*/model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.usefixtures("orphans")
def test_a_run_killed_in_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    running = start(killed)
    wait_for_checkpoint(killed, running)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    assert not list(killed.glob("stages/train/*/model.safetensors")), "it was killed too late to show anything"
    interrupted = json.loads((killed / "runs" / "surface.json").read_text())["run_id"]

    out, err = start(killed).communicate()
    resumed = json.loads(out.strip().splitlines()[-1])
    assert resumed.get("run_id") == interrupted, err
    out, _ = start(whole).communicate()
    uninterrupted = json.loads(out.strip().splitlines()[-1])

    assert resumed["metrics"]["best_validation_accuracy"] == uninterrupted["metrics"]["best_validation_accuracy"]
    assert weights(killed) == weights(whole)


@pytest.mark.usefixtures("orphans")
def test_ctrl_c_says_so_and_the_next_run_goes_on(tmp_path: Path) -> None:
    running = start(tmp_path)
    wait_for_checkpoint(tmp_path, running)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate()
    assert running.returncode == 130, err
    assert "run again to go on" in err
    out, err = start(tmp_path).communicate()
    assert json.loads(out.strip().splitlines()[-1]).get("version") == "1", err
