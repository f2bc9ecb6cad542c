"""labline tune on real servers: its trials and their runs, the winner as a declaration, series, two goals."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from small_runs import invoke

from flows.tuning import tuning
from labline.declaration import load_usecase

pytestmark = pytest.mark.usefixtures("servers")

STRIPS = """
name = "strips"
title = "Rendered strips, few and small"
[data]
source = "surfaces"
image_size = 24
channels = 1
options = { samples = 400 }
[cleaning]
label_issues = "off"
near_duplicates = "keep"
[augmentation]
policy = ["flip"]
[model]
width = 0.25
[training]
epochs = 6
batch_size = 32
learning_rate = 2e-3
[tuning]
trials = 7
[tuning.space]
training.learning_rate = { low = 1e-9, high = 2e-2, log = true }
training.label_smoothing = { low = 0.0, high = 0.3 }
"""


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "strips.toml"
    path.write_text(STRIPS)
    return path


@pytest.fixture(scope="module")
def found(declared: Path) -> dict[str, Any]:
    return tuning(str(declared))


@pytest.fixture(scope="module")
def children(found: dict[str, Any]) -> dict[int, Run]:
    client = MlflowClient()
    experiment = client.get_run(found["run_id"]).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{found['run_id']}'")
    return {int(run.data.tags["labline.trial"]): run for run in runs}


def test_the_declaration_is_tried_first_and_never_beats_the_winner(found: dict[str, Any]) -> None:
    assert [trial["index"] for trial in found["trials"]] == list(range(7))
    first, winner = found["trials"][0], found["trials"][found["winner"]]
    assert first["settings"] == {"training.learning_rate": 2e-3, "training.label_smoothing": 0.0}
    assert winner["state"] == "complete"
    assert winner["metric"] >= first["metric"]
    assert found["declared_interval"][0] <= found["declared_metric"] <= found["declared_interval"][1]


def test_a_trial_that_learns_nothing_is_ended_early(found: dict[str, Any], children: dict[int, Run]) -> None:
    pruned = [trial for trial in found["trials"] if trial["state"] == "pruned"]
    assert pruned, "a rate of 1e-9 learns nothing beside one of 1e-3"
    for trial in pruned:
        assert trial["epochs"] < 6
        assert children[trial["index"]].info.status == "KILLED"


def test_every_trial_is_an_mlflow_run_in_that_of_the_search(found: dict[str, Any], children: dict[int, Run]) -> None:
    assert children.keys() == set(range(7))
    client = MlflowClient()
    for trial in found["trials"]:
        run = children[trial["index"]]
        assert run.info.run_id == trial["run"]
        assert run.data.tags["labline.trial.state"] == trial["state"]
        assert float(run.data.params["training.learning_rate"]) == trial["settings"]["training.learning_rate"]
        assert len(client.get_metric_history(trial["run"], "validation_accuracy")) == trial["epochs"]


def test_pictures_and_figures_stand_on_the_run_of_the_search(found: dict[str, Any]) -> None:
    client = MlflowClient()
    run = client.get_run(found["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["best_validation_accuracy"] == pytest.approx(found["winner_metric"])
    attached = {file.path.removeprefix("tuning/") for file in client.list_artifacts(found["run_id"], "tuning")}
    assert {"history.png", "slices.png", "trials.md", "gain.json", "strips.tuned.toml"} <= attached


def test_the_winner_is_a_declaration_that_trains_the_same_use_case(found: dict[str, Any], declared: Path) -> None:
    written = declared.with_name("strips.tuned.toml")
    assert found["out"] == str(written)
    assert f"study {found['study']}" in written.read_text().splitlines()[0]
    original, tuned = tomllib.loads(STRIPS), tomllib.loads(written.read_text())
    for key, value in found["settings"].items():
        section, name = key.split(".")
        assert tuned[section].pop(name) == value
        original[section].pop(name, None)
    assert tuned == original, "all else is as it was declared"
    assert load_usecase(str(written), Path("usecases")).name == "strips"


def test_a_second_search_reuses_what_was_tried_and_adds_to_it(found: dict[str, Any], declared: Path) -> None:
    again = tuning(str(declared), trials=8)
    assert again["study"] == found["study"] and again["run_id"] == found["run_id"]
    assert again["trials"][:7] == found["trials"]
    assert len(again["trials"]) == 8


def test_anew_means_that_nothing_is_known(found: dict[str, Any], declared: Path, tmp_path: Path) -> None:
    summary = tuning(str(declared), trials=2, fresh=True, out=str(tmp_path / "out.toml"))
    assert [trial["settings"] for trial in summary["trials"]] == [trial["settings"] for trial in found["trials"][:2]]
    assert not {trial["run"] for trial in summary["trials"]} & {trial["run"] for trial in found["trials"]}
    assert (tmp_path / "out.toml").is_file()


def test_quality_and_speed_are_weighed(declared: Path, tmp_path: Path) -> None:
    goals = ['tuning.objectives=["metric", "latency"]', "tuning.space={}", "training.epochs=2"]
    wide = [*goals, "tuning.space.model.width={low=0.1, high=1.0}"]
    summary = tuning(str(declared), assignments=wide, trials=3, out=str(tmp_path / "out.toml"))
    assert {trial["state"] for trial in summary["trials"]} == {"complete"}
    assert all(trial["latency"] > 0 for trial in summary["trials"])
    winner = summary["trials"][summary["winner"]]
    assert winner["metric"] >= summary["trials"][0]["metric"]
    assert summary["latencies"].keys() == {"declared", "winner"}
    files = MlflowClient().list_artifacts(summary["run_id"], "tuning")
    assert "tuning/pareto.png" in {file.path for file in files}


def test_a_series_is_searched_with_its_window(tmp_path: Path) -> None:
    small = ["training.epochs=1", "model.width=0.25", "features.window=10"]
    space = [
        "tuning.space.features.window={low=5, high=20}",
        "tuning.space.model.architecture={choices=['rnn', 'gru']}",
    ]
    summary = tuning("volatility", assignments=[*small, *space], trials=3, out=str(tmp_path / "out.toml"))
    assert [trial["state"] for trial in summary["trials"]] == ["complete"] * 3
    assert summary["metric"] == "qlike" and not summary["higher_is_better"]
    windows = [trial["settings"]["features.window"] for trial in summary["trials"]]
    assert windows[0] == 10 and all(5 <= window <= 20 for window in windows)
    assert summary["winner_metric"] <= summary["declared_metric"]


def test_settings_that_cannot_be_trained_fail_alone(declared: Path, tmp_path: Path) -> None:
    space = ["tuning.space={}", 'tuning.space.model.architecture={choices=["cnn", "resent"]}', "training.epochs=1"]
    summary = tuning(str(declared), assignments=space, trials=4, out=str(tmp_path / "out.toml"))
    failed = [trial for trial in summary["trials"] if trial["state"] == "failed"]
    assert failed and all("did you mean 'resnet'" in trial["note"] for trial in failed)
    assert all(trial["settings"]["model.architecture"] == "resent" for trial in failed)


def test_a_misspelt_key_is_refused_before_anything_runs() -> None:
    ended = invoke("tune", "surface", "--json", "--set", "tuning.space.training.learning_rat={low=1e-4, high=1e-2}")
    assert ended.code == 2
    assert "did you mean 'training.learning_rate'" in ended.summary["error"]
