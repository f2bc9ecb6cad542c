"""A search of two trials at once, killed with SIGKILL in their middle, gone on with: what one in peace comes to."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from small_runs import command
from test_tuning import STRIPS

from flows.tuning import tuning
from tasks.environment import storage_root

pytestmark = pytest.mark.usefixtures("servers")

TRIALS, EPOCHS = 5, 8  # of which none depends on how others did: so many are drawn at random first
LONGER = STRIPS.replace("epochs = 6", f"epochs = {EPOCHS}").replace('name = "strips"', 'name = "killed"')


@dataclass(frozen=True)
class Story:
    """A search that was killed, as it stood then and as it ended; and another one that was left in peace."""

    finished: set[str]  # MLflow runs of the trials that had ended before
    orphans: list[psutil.Process]  # processes of the killed search that live on
    resumed: dict[str, Any]
    whole: dict[str, Any]


def kill_in_trial(path: Path, index: int) -> list[psutil.Process]:
    """Start a search, end it without warning as soon as an epoch of this trial is on disk; returns what lives on."""
    words = command("tune", str(path), "--trials", str(TRIALS), "--parallel", "2", "--set", 'tuning.pruner="none"')
    family: list[psutil.Process] = []
    process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": os.getcwd()}, stderr=subprocess.PIPE)
    try:
        while not list(storage_root().glob(f"tuning/killed-*/{index}.checkpoint.pt")):
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.01)
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
    return psutil.wait_procs(family, timeout=60)[1]


@pytest.fixture(scope="module")
def story(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("killed")
    path = folder / "killed.toml"
    path.write_text(LONGER)
    orphans = kill_in_trial(path, 2)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("killed")
    known = client.search_runs([experiment.experiment_id], "tags.`labline.trial.state` = 'complete'")
    options: dict[str, Any] = {"assignments": ['tuning.pruner="none"'], "trials": TRIALS}
    resumed = tuning(str(path), **options)
    mine = os.environ["LABLINE_TUNING"]
    os.environ["LABLINE_TUNING"] = f"sqlite:///{folder}/in-peace.db"
    try:
        whole = tuning(str(path), **options)
    finally:
        os.environ["LABLINE_TUNING"] = mine
    return Story({run.info.run_id for run in known}, orphans, resumed, whole)


def test_a_killed_search_leaves_no_process(story: Story) -> None:
    assert story.orphans == []


def test_finished_trials_are_not_repeated(story: Story) -> None:
    assert story.finished
    assert story.finished < {trial["run"] for trial in story.resumed["trials"]}
    assert len(story.resumed["trials"]) == TRIALS


def test_the_one_that_was_killed_is_tried_again_with_the_same_settings_in_its_own_run(story: Story) -> None:
    client = MlflowClient()
    runs = [trial["run"] for trial in story.resumed["trials"]]
    parent = story.resumed["run_id"]
    experiment = client.get_run(parent).info.experiment_id
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.info.run_id for run in nested} == set(runs)
    assert {run.info.status for run in nested} == {"FINISHED"}
    for run in runs:
        epochs = [point.step for point in client.get_metric_history(run, "validation_accuracy")]
        assert sorted(epochs) == list(range(1, EPOCHS + 1)), "each epoch once"


def test_the_search_comes_to_what_it_would_have_come_to(story: Story) -> None:
    def seen(summary: dict[str, Any]) -> list[Any]:
        return [(trial["settings"], trial["metric"], trial["state"]) for trial in summary["trials"]]

    assert seen(story.resumed) == seen(story.whole)
    assert story.resumed["verdict"] == story.whole["verdict"]


def test_nothing_is_left_of_checkpoints(story: Story) -> None:
    assert not list(storage_root().glob("tuning/killed-*/*.checkpoint.pt"))
