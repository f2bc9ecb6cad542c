"""`labline simulate`, as a user meets it: a version that tells bright strips from dark ones, over simulated years."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from registered import SIZE, register
from small_runs import invoke

from labline.data import surfaces

NAME = "simulated-parts"
CLASSES = ("patches", "scratches")  # dark and bright ones
RULES = "[monitoring]\nwindow = 500"  # what is looked at every day until it is full


@pytest.fixture(scope="module", autouse=True)
def in_production(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A version with its reference, in Production, registered without any training."""
    from mlflow import MlflowClient

    from labline.monitoring.shifts import shifted_reference
    from labline.packaged_model import PROBABILITIES, open_model
    from labline.pools import Shown, answered
    from labline.reference import Reference, write_reference
    from tasks.environment import load_environment

    load_environment()
    folder = register(NAME, tmp_path_factory.mktemp("simulated") / "version")
    extra = folder / "extra_files"
    (extra / "evaluation.json").write_text(json.dumps({"labels": CLASSES}))
    mix = "{ " + ", ".join(f"{name} = 1.0" for name in CLASSES) + " }"
    declared = (extra / "usecase.toml").read_text()
    (extra / "usecase.toml").write_text(
        declared.replace("[training]", f"options = {{ class_mix = {mix} }}\n{RULES}\n[training]")
    )
    made = surfaces.render(600, SIZE, 5, surfaces.Conditions(class_mix=dict.fromkeys(CLASSES, 1.0)))
    model = open_model(folder)

    def answer(images: np.ndarray[Any, Any]) -> tuple[Any, None]:
        return model.answer(images, (PROBABILITIES,))[0], None

    truth = np.array(made.true_labels, dtype=object)
    tested = answered(Shown(made.images, truth), CLASSES, answer)
    rows = {"label": truth, "answer": tested.answer, "confidence": tested.confidence, **tested.features}
    reference = Reference(pd.DataFrame({"sample_id": made.sample_ids, **rows}), tested.outputs, None, ("mean", "std"))
    write_reference(reference, extra / "reference.parquet")
    positions = np.array([CLASSES.index(label) for label in truth])
    shifted = shifted_reference(made.images, positions, CLASSES, answer)
    write_reference(shifted, extra / "reference_shifted.parquet", most=len(shifted.rows))
    MlflowClient().set_model_version_tag(NAME, "1", "chosen.sha256", "0" * 64)


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer images and windows than a person would want: what they come to is told all the same."""
    monkeypatch.setattr("tasks.pools.HEALTHY", 1000)
    monkeypatch.setattr("tasks.pools.DRIFTED", 500)
    monkeypatch.setattr("tasks.shifted_pools.MOST", 200)
    monkeypatch.setattr("flows.estimating.WINDOWS", 2)
    monkeypatch.setattr("flows.estimating.SIZE", 100)


def test_years_are_told_as_figures_and_as_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "years.png"
    words = ("--drift", "sudden", "--years", "2", "--per-day", "100", "--out", str(picture), "--json")
    ended = invoke("simulate", NAME, *words)
    assert ended.code == 0, ended.err
    told = ended.summary
    assert told["years"] == 2 and told["usecase"] == NAME and told["drift"] == "sudden"
    assert told["accuracy_healthy"] - told["accuracy_drifted"] >= 0.05
    assert {"false_alarm_rate", "detected", "detection", "retrainings", "accuracy_lost", "verdicts"} <= set(told)
    assert sum(told["verdicts"].values()) >= 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "accuracy under the drift" in ended.err
    again = invoke("simulate", NAME, *words)
    assert {**again.summary, "seconds": 0} == {**told, "seconds": 0}


def test_estimates_are_measured_under_every_kind_of_drift() -> None:
    ended = invoke("simulate", NAME, "--estimation", "--json")
    assert ended.code == 0, ended.err
    kinds = ended.summary["kinds"]
    assert {"healthy", "lighting", "noise", "jpeg", "label-shift", "new-class", "concept drift"} <= set(kinds)
    assert kinds["new-class"]["cost"] > 0.05
    assert 0 <= ended.summary["healthy"] <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--drift", "suden"], "did you mean 'sudden'?"),
        (["--drift", "sudden", "--move", "brightness"], "these images have no such level"),
        (["--drift", "new-class", "--magnitude", "1.5"], "it is a share, from 0 to 1"),
        (["--drift", "sudden", "--magnitude", "7"], "lighting must be a number from -1 to 1"),
        (["--version", "9"], "has no version 9"),
    ],
)
def test_what_cannot_be_simulated_is_bad_input(words: list[str], said: str) -> None:
    ended = invoke("simulate", NAME, *words, "--json")
    assert ended.code == 2 and said in ended.summary["error"]
