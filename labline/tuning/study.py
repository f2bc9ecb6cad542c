"""A study: which settings were tried, what came of them, and what is tried next; it outlives whoever runs it.

The n-th proposal depends on the seed, on n and on the trials that have ended alone: a search that was killed and gone
on with proposes what it would have proposed. Trials carry, as Optuna's user attributes:

```
index     which proposal it is, from 0: the declaration itself
settings  what was tried, by section.key
owner     the storage root that runs it, with its host
process   pid and start (seconds since 1970) of the process that trains, on that host
lost      broken off without a result; another trial of the same index takes it up
note      why it failed, or was ended early
run       its MLflow run
epochs, seconds, metric, latency
```
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from labline.database import database_url
from labline.tuning.declaration import Tuning

RANDOM_TRIALS = 5  # before the sampler trusts what it has seen
MEDIAN_OF = 4  # trials that ended before the median ends others
WARM_UP = 0.25  # of the epochs, in which none is ended
REDUCTION = 3  # of Hyperband (Li et al. 2018, arXiv:1603.06560)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Attempt:
    """One trial as a person reads it; `state` is complete, pruned, failed or running."""

    index: int
    state: str
    settings: dict[str, Any]
    metric: float
    latency: float
    epochs: int
    seconds: float
    note: str
    run: str


def open_storage(address: str) -> optuna.storages.RDBStorage:
    """The storage at an SQLAlchemy address; a folder for an SQLite file must be there."""
    url = database_url(address)
    waits = {"connect_args": {"timeout": 60}} if url.drivername.startswith("sqlite") else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=waits)


def open_study(address: str, name: str, tuning: Tuning, higher: bool, epochs: int) -> optuna.Study:
    """The study of that name, made where there is none; `higher` says whether more of the metric is better."""
    directions = [StudyDirection.MAXIMIZE if higher else StudyDirection.MINIMIZE]
    if "latency" in tuning.objectives:
        directions.append(StudyDirection.MINIMIZE)
    return optuna.create_study(
        storage=open_storage(address),
        study_name=name,
        directions=directions,
        sampler=optuna.samplers.RandomSampler(seed=0),  # `propose` brings its own
        pruner=pruner_of(tuning, epochs),
        load_if_exists=True,
    )


def pruner_of(tuning: Tuning, epochs: int) -> optuna.pruners.BasePruner:
    """What ends trials early: nothing where two goals are weighed, or where trials have different numbers of epochs."""
    if not prunes(tuning):
        return optuna.pruners.NopPruner()
    if tuning.pruner == "hyperband":
        smallest = max(1, epochs // REDUCTION**2)
        return optuna.pruners.HyperbandPruner(smallest, epochs, REDUCTION)
    return optuna.pruners.MedianPruner(n_startup_trials=MEDIAN_OF, n_warmup_steps=math.ceil(WARM_UP * epochs))


def prunes(tuning: Tuning) -> bool:
    """Whether trials may be ended early."""
    return tuning.pruner != "none" and len(tuning.objectives) == 1 and "training.epochs" not in tuning.space


def propose(
    study: optuna.Study, space: Mapping[str, BaseDistribution], declared: Mapping[str, Any], seed: int
) -> tuple[Trial, int]:
    """The next trial and its index: a lost one again, the declaration first of all, else what the sampler expects
    to be good (TPE over all settings at once, Falkner et al. 2018, arXiv:1807.01774)."""
    known = [trial for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get("lost")]
    used = {trial.user_attrs.get("index") for trial in known}
    index = next(number for number in count() if number not in used)
    if not any(trial.state == TrialState.WAITING for trial in known):
        if index == 0:
            study.enqueue_trial(dict(declared), user_attrs={"index": 0})
        drawn = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(
            seed=drawn, n_startup_trials=RANDOM_TRIALS, multivariate=True, constant_liar=True
        )
    trial = study.ask(dict(space))
    return trial, int(trial.user_attrs.get("index", index))


def tried(study: optuna.Study) -> list[FrozenTrial]:
    """All trials that were begun, less those that others take up again, by their index."""
    begun = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING and not trial.user_attrs.get("lost") and "index" in trial.user_attrs
    ]
    return sorted(begun, key=lambda trial: int(trial.user_attrs["index"]))


def is_waiting(study: optuna.Study) -> bool:
    """Whether a lost trial waits to be taken up."""
    return any(trial.state == TrialState.WAITING for trial in study.get_trials(deepcopy=False))


def take_up(study: optuna.Study, frozen: FrozenTrial) -> None:
    """Give up a running trial that nobody runs any more, and have its settings tried again under its index."""
    trial = Trial(study, frozen._trial_id)
    kept: dict[str, Any] = {name: frozen.user_attrs[name] for name in ("index", "run") if name in frozen.user_attrs}
    trial.set_user_attr("lost", True)
    study.tell(frozen.number, state=TrialState.FAIL)
    if "settings" in frozen.user_attrs:
        study.enqueue_trial(frozen.params, user_attrs=kept)


def attempts(study: optuna.Study) -> list[Attempt]:
    """All that was tried, by index."""
    return [_attempt(trial) for trial in tried(study)]


def completed(study: optuna.Study) -> list[Attempt]:
    """The trials that were trained to their end."""
    return [attempt for attempt in attempts(study) if attempt.state == "complete"]


def best(found: Sequence[Attempt], higher: bool, both: bool) -> Attempt | None:
    """The winner among completed trials, the declaration where nothing is better; None where nothing is complete.

    By the metric, the earlier of equals; of `both` goals the fastest that is not worse than the declaration.
    """
    sign = 1 if higher else -1
    if not found:
        return None
    if both and found[0].index == 0:
        good = [attempt for attempt in found if sign * attempt.metric >= sign * found[0].metric]
        return min(good, key=lambda attempt: (attempt.latency, attempt.index))
    return max(found, key=lambda attempt: (sign * attempt.metric, -attempt.index))


def front(found: Sequence[Attempt], higher: bool) -> list[int]:
    """The indices of those that no other one beats in the metric and in latency (the Pareto front), fastest first."""
    sign = 1 if higher else -1
    kept: list[Attempt] = []
    for attempt in sorted(found, key=lambda attempt: (attempt.latency, -sign * attempt.metric, attempt.index)):
        if not kept or sign * attempt.metric > sign * kept[-1].metric:
            kept.append(attempt)
    return [attempt.index for attempt in kept]


def _attempt(trial: FrozenTrial) -> Attempt:
    attributes = trial.user_attrs
    seen = trial.intermediate_values
    last = seen[max(seen)] if seen else math.nan
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return Attempt(
        index=int(attributes["index"]),
        state=states.get(trial.state, "running"),
        settings=dict(attributes.get("settings", {})),
        metric=float(attributes.get("metric", last)),
        latency=float(attributes.get("latency", math.nan)),
        epochs=int(attributes.get("epochs", len(seen))),
        seconds=float(attributes.get("seconds", math.nan)),
        note=str(attributes.get("note", "")),
        run=str(attributes.get("run", "")),
    )
