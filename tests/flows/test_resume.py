"""Killed and interrupted in the middle of training, run again: the same model as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from small_runs import SMALL, command, embedded

EPOCHS = 12
LONGER = [*SMALL, f"training.epochs={EPOCHS}", "data.options={samples=1500}"]
ARGUMENTS = ["run", "surface", "--json", *(word for setting in LONGER for word in ("--set", setting))]


@dataclass(frozen=True)
class Running:
    """labline at the head of a process group, as a terminal starts it, printing to files that outlive it."""

    process: subprocess.Popen[bytes]
    store: Path
    printed: Path
    told: Path

    def wait_for_epoch(self, epoch: int) -> None:
        """Return as soon as a checkpoint holds that many epochs."""
        import torch

        while True:
            assert self.process.poll() is None, self.told.read_text()
            for path in self.store.glob("stages/train/*.partial/checkpoint.pt"):
                if len(torch.load(path, weights_only=True)["history"]) >= epoch:
                    return
            time.sleep(0.02)

    def end(self) -> int:
        return self.process.wait(timeout=300)

    @property
    def summary(self) -> dict[str, Any]:
        assert self.process.returncode == 0, self.told.read_text()
        loaded: dict[str, Any] = json.loads(self.printed.read_text().splitlines()[-1])
        return loaded


def start(folder: Path, name: str) -> Running:
    store, printed, told = folder / "store", folder / f"{name}.out", folder / f"{name}.err"
    with printed.open("wb") as out, told.open("wb") as err:
        process = subprocess.Popen(command(*ARGUMENTS), env=embedded(store), stdout=out, stderr=err, process_group=0)
    return Running(process, store, printed, told)


def unfinished_run(store: Path) -> str:
    return str(json.loads((store / "runs" / "surface.json").read_text())["run_id"])


def weights(store: Path) -> str:
    (file,) = store.glob("stages/train/*/model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def history(store: Path) -> pd.DataFrame:
    (file,) = store.glob("stages/train/*/evidence/files/history.csv")
    return pd.read_csv(file)


@dataclass(frozen=True)
class Story:
    """One run killed, gone on with, interrupted and gone on with again; and another that was left in peace."""

    killed: Running
    interrupted: Running
    resumed: Running
    whole: Running
    run_ids: tuple[str, str]  # that the killed and the interrupted run noted down


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("disturbed")
    killed = start(folder, "killed")
    family: list[psutil.Process] = []
    try:
        killed.wait_for_epoch(1)
        family = psutil.Process(killed.process.pid).children(recursive=True)
        killed.process.kill()
        killed.end()
        first = unfinished_run(killed.store)

        interrupted = start(folder, "interrupted")  # while the killed run's Prefect server still lives
        interrupted.wait_for_epoch(4)
        os.killpg(interrupted.process.pid, signal.SIGINT)  # Ctrl-C reaches the whole process group
        interrupted.end()
        second = unfinished_run(killed.store)
    finally:
        killed.process.kill()
        for orphan in family:
            orphan.kill()

    resumed = start(folder, "resumed")
    resumed.end()
    whole = start(tmp_path_factory.mktemp("undisturbed"), "whole")
    whole.end()
    return Story(killed, interrupted, resumed, whole, (first, second))


def test_ctrl_c_says_in_one_line_what_is_kept(story: Story) -> None:
    assert story.killed.process.returncode == -signal.SIGKILL
    assert story.interrupted.process.returncode == 130
    told = story.interrupted.told.read_text()
    assert "the last checkpoint are kept; run again to go on" in told
    assert "Traceback" not in told


def test_ctrl_c_leaves_no_process(story: Story) -> None:
    group = [process for process in psutil.process_iter() if is_in_group(process, story.interrupted.process.pid)]
    assert group == []


def is_in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group
    except ProcessLookupError:
        return False


def test_the_next_run_goes_on_in_the_same_mlflow_run(story: Story) -> None:
    assert story.resumed.summary["version"] == "1"
    assert set(story.run_ids) == {story.resumed.summary["run_id"]}
    client = MlflowClient(f"sqlite:///{story.resumed.store}/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("surface").experiment_id])
    assert run.info.status == "FINISHED"
    epochs = [point.step for point in client.get_metric_history(run.info.run_id, "train_loss")]
    assert sorted(epochs) == list(range(1, EPOCHS + 1)), "each epoch once"


def test_finished_stages_are_not_run_again(story: Story) -> None:
    cached = {stage["name"]: stage["cached"] for stage in story.resumed.summary["stages"]}
    assert cached["ingest"] and cached["validate"] and cached["clean"] and cached["augment"]
    assert not cached["train"]


def test_the_model_is_that_of_a_run_left_in_peace(story: Story) -> None:
    figure = "best_validation_accuracy"
    assert story.resumed.summary["metrics"][figure] == story.whole.summary["metrics"][figure]
    assert weights(story.resumed.store) == weights(story.whole.store)
    measured = ["train_loss", "validation_loss", "validation_accuracy", "learning_rate"]
    pd.testing.assert_frame_equal(history(story.resumed.store)[measured], history(story.whole.store)[measured])
