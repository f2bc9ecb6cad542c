"""The verdict: what the evidence of a window comes to, by the rules of the declaration, in plain words.

`retrain` and `rollback` cost something, so both need sequential evidence (`labline.monitoring.sequential`), which is
said for nothing with chance `false_alarms` a year at most; drift and labels each have half of that chance.
- Labels show it: the measured loss is above what the rules allow. Right after a promotion, where the version before
  was better than this one by the intervals of both, that is `rollback`, else `retrain`.
- Drift shows it: answers and inputs are not the reference's any more, and since that change accuracy is estimated to
  be lower by more than `max_drop`, its 95 % interval (of sampling and calibration) lying below the reference.
Drift without an estimated loss is `watch`: input drift by itself is no harm, and neither are other shares of classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from labline.monitoring.declaration import Monitoring
from labline.monitoring.estimation import Estimate
from labline.monitoring.performance import Performance
from labline.monitoring.sequential import Evidence

Kind = Literal["healthy", "watch", "retrain", "rollback"]

SIGNIFICANCE = 0.001  # of a feature's drift in one window, adjusted for the number of features
LOSS_NAMES = {"qlike": "QLIKE", "mse": "squared error"}


@dataclass(frozen=True)
class Change:
    """Since when a window differs: from position `start` on, `predictions` of them, seen most in the stream `where`.

    `estimate` is of those predictions, None where there are too few or nothing to estimate with.
    """

    start: int
    predictions: int
    where: str
    estimate: Estimate | None


@dataclass(frozen=True)
class Findings:
    """What the verdict rests on. `change` is None while there is no evidence of drift."""

    predictions: int
    drift: Evidence
    change: Change | None
    losses: Evidence
    performance: Performance


@dataclass(frozen=True)
class Verdict:
    """What to do, and why: at least one reason."""

    kind: Kind
    reasons: tuple[str, ...]


def threshold(rules: Monitoring) -> float:
    """The logarithm of the winnings that count as evidence: two bets share the allowed chance of a false alarm."""
    return float(np.log(2 / rules.false_alarms))


def judge(
    found: Findings,
    rules: Monitoring,
    inputs: pd.DataFrame | None = None,
    predecessor: Performance | None = None,
    since_promotion: int | None = None,
) -> Verdict:
    """The verdict on a window; the same findings always give the same one.

    `inputs` is the table of `input_drift`, `predecessor` what the version before measured at its last, and
    `since_promotion` how many predictions this one has answered in its place.
    """
    if found.predictions < rules.fewest:
        return Verdict("healthy", (f"only {found.predictions} predictions yet, too few of {rules.fewest} to judge",))
    if found.losses.log_value >= threshold(rules):
        reason = _measured(found.performance, rules)
        if _is_better(predecessor, found.performance) and (since_promotion or 0) <= rules.rollback_within:
            assert predecessor is not None
            before = (
                f"the version before measured {predecessor.value:.4g} ({predecessor.low:.4g} to {predecessor.high:.4g})"
            )
            return Verdict("rollback", (reason, before))
        return Verdict("retrain", (reason, *_drifted(found.change)))
    if found.change is not None and _loses(found.change.estimate, rules):
        assert found.change.estimate is not None
        return Verdict("retrain", (_estimated(found.change.estimate), *_drifted(found.change)))
    features = _features(inputs, rules)
    if found.change is not None or features:
        return Verdict("watch", (*_drifted(found.change), *features, *_bearable(found.change)))
    calm = f"{found.predictions:,} predictions show neither drift nor loss"
    return Verdict("healthy", (calm, *_labels(found.performance)))


def _loses(estimate: Estimate | None, rules: Monitoring) -> bool:
    return estimate is not None and estimate.drop > rules.max_drop and estimate.drop_low > 0


def _is_better(predecessor: Performance | None, current: Performance) -> bool:
    if predecessor is None or not predecessor.labelled or not current.labelled:
        return False
    if current.metric == "accuracy":
        return predecessor.low > current.high
    return predecessor.high < current.low


def _measured(measured: Performance, rules: Monitoring) -> str:
    name = LOSS_NAMES.get(measured.metric, measured.metric)
    allowed = f"{rules.max_drop:g} below" if measured.metric == "accuracy" else f"{rules.max_rise:.0%} above"
    return (
        f"{name} measured on {measured.labelled:,} labels ({measured.share:.0%} of the predictions) is "
        f"{measured.value:.4g} ({measured.low:.4g} to {measured.high:.4g}): more than {allowed} the reference's "
        f"{measured.reference:.4g}"
    )


def _estimated(estimate: Estimate) -> str:
    like = ", ".join(f"{share:.0%} {name}" for name, share in estimate.mixture.items())
    return (
        f"accuracy is estimated at {estimate.accuracy:.4f} ({estimate.low:.4f} to {estimate.high:.4f}) without labels, "
        f"{100 * estimate.drop:.1f} points below the reference; the inputs look like {like}{_classes(estimate)}"
    )


def _classes(estimate: Estimate) -> str:
    """Classes that come in other shares than in the reference; empty without any."""
    if not estimate.classes:
        return ""
    return ", with " + ", ".join(f"{share:.0%} {name}" for name, share in estimate.classes.items())


def _drifted(change: Change | None) -> tuple[str, ...]:
    if change is None:
        return ()
    return (f"drift over the last {change.predictions:,} predictions: {change.where}",)


def _bearable(change: Change | None) -> tuple[str, ...]:
    if change is None or change.estimate is None:
        return ()
    estimate = change.estimate
    ends = f"{estimate.low:.4f} to {estimate.high:.4f}"
    return (f"accuracy since then is estimated at {estimate.accuracy:.4f} ({ends}){_classes(estimate)}",)


def _features(inputs: pd.DataFrame | None, rules: Monitoring) -> tuple[str, ...]:
    """A line a feature whose distribution is another, by size and significance."""
    if inputs is None:
        return ()
    moved = inputs[(inputs["psi"] >= rules.max_psi) & (inputs["p"] < SIGNIFICANCE)]
    return tuple(
        f"{row.feature}: mean {row.window:.4g}, reference {row.reference:.4g} (stability index {row.psi:.2f})"
        for row in moved.itertuples()
    )


def _labels(measured: Performance) -> tuple[str, ...]:
    if not measured.labelled:
        return ()
    ends = f"{measured.value:.4g} ({measured.low:.4g} to {measured.high:.4g})"
    return (f"{measured.metric} on {measured.labelled:,} labels: {ends}",)
