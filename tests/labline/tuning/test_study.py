"""Studies: what is proposed next depends on what has ended alone, however often the search was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from labline.tuning.declaration import Dimension, Tuning
from labline.tuning.study import (
    Attempt,
    attempts,
    best,
    completed,
    front,
    open_study,
    propose,
    prunes,
    take_up,
    tried,
)

SPACE = {"rate": FloatDistribution(1e-4, 1e-1, log=True), "kind": CategoricalDistribution(["a", "b"])}
DECLARED = {"rate": 0.01, "kind": "a"}


def opened(folder: Path | None, name: str = "s", **tuning: Any) -> optuna.Study:
    """A study in a folder, or in memory."""
    address = f"sqlite:///{folder}/tuning.db" if folder else "sqlite://"
    return open_study(address, name, Tuning(**tuning), higher=True, epochs=8)


def begin(study: optuna.Study, seed: int = 0) -> optuna.Trial:
    """Propose as `tasks.searching` does."""
    trial, index = propose(study, SPACE, DECLARED, seed)
    trial.set_user_attr("settings", dict(trial.params))
    trial.set_user_attr("index", index)
    return trial


def value(trial: optuna.Trial) -> float:
    return -abs(trial.params["rate"] - 0.03) + (trial.params["kind"] == "b")


def search(study: optuna.Study, until: int, seed: int = 0) -> list[dict[str, Any]]:
    while len(tried(study)) < until:
        trial = begin(study, seed)
        trial.set_user_attr("metric", value(trial))
        study.tell(trial, value(trial))
    return [attempt.settings for attempt in attempts(study)]


def test_the_first_trial_is_the_declaration() -> None:
    assert search(opened(None), 1) == [DECLARED]


def test_the_same_seed_proposes_the_same_trials_and_another_one_others() -> None:
    first, same, other = (search(opened(None), 9, seed) for seed in (3, 3, 4))
    assert first == same
    assert first[1:] != other[1:]
    assert len({settings["rate"] for settings in first}) == 9


def test_a_search_killed_in_the_middle_proposes_what_it_would_have_proposed(tmp_path: Path) -> None:
    whole = search(opened(tmp_path, "whole"), 9)
    search(opened(tmp_path, "killed"), 6)
    lost = begin(opened(tmp_path, "killed"))  # and its process dies
    study = opened(tmp_path, "killed")
    take_up(study, next(trial for trial in study.get_trials() if trial.state == TrialState.RUNNING))
    again = begin(study)
    assert again.params == lost.params and again.user_attrs["index"] == lost.user_attrs["index"] == 6
    study.tell(again, value(again))
    assert search(opened(tmp_path, "killed"), 9) == whole
    assert len(study.get_trials()) == 10, "the lost one stays in the storage, as failed"


@pytest.mark.parametrize("written", [0, 1])
def test_one_killed_while_it_was_proposed_is_proposed_again(written: int) -> None:
    study = opened(None)
    search(study, 3)
    half, _ = propose(study, SPACE, DECLARED, 0)
    if written:
        half.set_user_attr("settings", dict(half.params))
    frozen = next(trial for trial in study.get_trials() if trial.state == TrialState.RUNNING)
    take_up(study, frozen)
    assert begin(study).params == half.params


def test_nothing_is_ended_early_where_that_would_not_be_fair() -> None:
    assert prunes(Tuning())
    assert not prunes(Tuning(pruner="none"))
    assert not prunes(Tuning(objectives=["metric", "latency"]))
    assert not prunes(Tuning(space={"training.epochs": Dimension(low=2, high=8)}))


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_trial_that_lags_behind_is_ended(pruner: str) -> None:
    study = opened(None, pruner=pruner)

    def lags(level: float) -> bool:
        trial = begin(study)
        for epoch in range(1, 9):
            trial.report(level + 0.01 * epoch, epoch)
            if epoch < 8 and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return True
        study.tell(trial, level)
        return False

    assert [lags(level) for level in (0.9, 0.91, 0.92)] == [False] * 3
    assert sum(lags(0.1) for _ in range(6)) > 0
    assert {attempt.state for attempt in attempts(study)} == {"complete", "pruned"}
    assert all(attempt.metric > 0.8 for attempt in completed(study)[:3])


def attempt(index: int, metric: float, latency: float = 1.0) -> Attempt:
    return Attempt(index, "complete", {}, metric, latency, 1, 1.0, "", "")


def test_the_best_is_the_earlier_of_equals_so_that_nothing_wins_by_nothing() -> None:
    found = [attempt(0, 0.9), attempt(1, 0.8), attempt(2, 0.9)]
    assert best(found, higher=True, both=False) == found[0]
    assert best(found, higher=False, both=False) == found[1]
    assert best([], higher=True, both=False) is None


def test_of_two_goals_the_fastest_that_is_no_worse_than_the_declaration_wins() -> None:
    found = [attempt(0, 0.9, 2.0), attempt(1, 0.95, 3.0), attempt(2, 0.91, 1.5), attempt(3, 0.7, 0.1)]
    assert best(found, higher=True, both=True) == found[2]
    assert front(found, higher=True) == [3, 2, 1]
