"""How good the answers were whose truth has come back.

Labels come late and for a share of the predictions only. Those asked for in the review queue (source "review") are
left out here: the queue asks about what is uncertain, so they are no sample of all and would make any version look
bad. They still train the next one. All other labels count as a random sample of the predictions; where which
prediction gets a label depends on its being wrong, the figure is as biased as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.evaluation import wilson_interval
from labline.monitoring.samples import OF_THE_FILE, Samples

Floats = npt.NDArray[np.float64]
Loss = Literal["accuracy", "qlike", "mse"]

GROUP_TYPES = {"group": object, "value": object, "labelled": np.int64, "reference": np.float64, "window": np.float64}
GROUP_TYPES |= {"low": np.float64, "high": np.float64}
THIRDS = ("lowest third", "middle third", "highest third")


@dataclass(frozen=True)
class Performance:
    """What labels say of a window: `value` with its 95 % interval, and the reference's, of `metric`.

    accuracy: higher is better, Wilson's intervals; qlike and mse: mean loss, lower is better, a bootstrap of blocks.
    `share` of the predictions is labelled, `labelled` of them. `groups`, of a classifier: group ("class" or a feature),
    value, labelled, the share right in reference and window, low, high. NaN and empty where nothing is labelled.
    """

    metric: Loss
    labelled: int
    share: float
    value: float
    low: float
    high: float
    reference: float
    reference_low: float
    reference_high: float
    groups: pd.DataFrame


def performance(reference: Samples, window: Samples, metric: Loss = "accuracy") -> Performance:
    """Measure a window by its labels, beside its reference."""
    usable_N = counted(window)
    known, seen = losses(reference, metric), losses(window, metric)[usable_N]
    value, low, high = _figures(seen, metric)
    reference_value, reference_low, reference_high = _figures(known, metric)
    return Performance(
        metric=metric,
        labelled=len(seen),
        share=len(seen) / max(len(window), 1),
        value=value,
        low=low,
        high=high,
        reference=reference_value,
        reference_low=reference_low,
        reference_high=reference_high,
        groups=_groups(reference, window.taken(np.flatnonzero(usable_N))) if metric == "accuracy" else _table([]),
    )


def counted(window: Samples) -> npt.NDArray[np.bool_]:
    """Which labels count: all but those that the review queue asked for."""
    counts_N: npt.NDArray[np.bool_] = window.labelled & ~window.reviewed
    return counts_N


def losses(samples: Samples, metric: Loss) -> Floats:
    """The loss of each answer, N, NaN without a label: wrong (0 or 1), QLIKE or the squared error.

    QLIKE takes targets and forecasts for log volatilities; a second output is the forecast's standard deviation, as of
    a Gaussian head, and the variance is then the lognormal's mean (see `labline.series.evaluation.qlike`).
    """
    known_N = samples.labelled
    if metric == "accuracy":
        return np.where(known_N, ~samples.correct, np.nan).astype(np.float64)
    target_N = pd.to_numeric(pd.Series(samples.label)).to_numpy(dtype=np.float64)
    if metric == "mse":
        squared_N: Floats = (target_N - pd.to_numeric(pd.Series(samples.answer)).to_numpy(dtype=np.float64)) ** 2
        return squared_N
    deviation_N = samples.outputs[:, 1] if samples.outputs.shape[1] == 2 else np.zeros(len(samples))
    ratio_N = np.exp(2 * target_N - 2 * samples.outputs[:, 0] - 2 * deviation_N**2)
    loss_N: Floats = ratio_N - np.log(ratio_N) - 1
    return loss_N


def _figures(loss_N: Floats, metric: Loss) -> tuple[float, float, float]:
    if not len(loss_N):
        return float("nan"), float("nan"), float("nan")
    if metric == "accuracy":
        right = len(loss_N) - int(loss_N.sum())
        return right / len(loss_N), *wilson_interval(right, len(loss_N))
    from labline.series.evaluation import block_interval

    known_N = loss_N[~np.isnan(loss_N)]
    return float(known_N.mean()), *(block_interval(known_N) if len(known_N) > 10 else (float("nan"),) * 2)


def _groups(reference: Samples, labelled: Samples) -> pd.DataFrame:
    """The share right within each class and each third of a feature."""
    found = []
    for name in sorted({*reference.label}):
        found.append(_group("class", name, reference, reference.label == name, labelled, labelled.label == name))
    for feature, known_N in reference.features.items():
        edges = np.unique(np.quantile(known_N[~np.isnan(known_N)], [1 / 3, 2 / 3]))
        if feature in OF_THE_FILE or len(edges) < 2 or np.isnan(labelled.features[feature]).any():
            continue
        known_third, seen_third = (np.searchsorted(edges, values) for values in (known_N, labelled.features[feature]))
        for third, value in enumerate(THIRDS):
            found.append(_group(feature, value, reference, known_third == third, labelled, seen_third == third))
    return _table(found)


def _group(
    group: str,
    value: str,
    reference: Samples,
    known_N: npt.NDArray[np.bool_],
    labelled: Samples,
    seen_N: npt.NDArray[np.bool_],
) -> tuple[object, ...]:
    known, right = reference.correct[known_N], labelled.correct[seen_N]
    before = known.mean() if len(known) else np.nan
    ends = wilson_interval(int(right.sum()), len(right)) if len(right) else (np.nan, np.nan)
    return group, value, len(right), before, right.mean() if len(right) else np.nan, *ends


def _table(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(GROUP_TYPES)).astype(GROUP_TYPES)
