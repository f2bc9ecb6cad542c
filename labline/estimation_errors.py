"""How far accuracy estimated without labels lies from the true one, in windows of a pool of labelled answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from labline.monitoring.estimation import Estimator
from labline.monitoring.samples import Samples

COLUMNS = ("kind", "level", "pool_accuracy", "cost", "error", "bias", "covered", "plain_error", "plain_bias")


@dataclass(frozen=True)
class Shift:
    """A pool under one kind of drift at one level, or share."""

    kind: str
    level: float
    samples: Samples


def estimation_errors(
    shifts: list[Shift], ours: Estimator, plain: Estimator, windows: int, size: int, seed: int = 0
) -> pd.DataFrame:
    """One row a shift. error: the mean absolute difference of estimated and true accuracy over windows of `size` drawn
    from its pool; bias: the mean difference, above 0 where the estimate is too good; covered: the share of windows
    whose true accuracy lies in the estimate's interval; plain_error and plain_bias: of CBPE calibrated on the reference
    alone. cost: the pool's accuracy below that of the first one. All are shares, 0 to 1.
    """
    rows = []
    for position, shift in enumerate(shifts):
        generator = np.random.default_rng((seed, position))
        drawn = []
        for _ in range(windows):
            window = shift.samples.taken(generator.integers(0, len(shift.samples), size))
            truth, found = float(window.correct.mean()), ours.estimate(window)
            drawn.append(
                (found.accuracy - truth, found.low <= truth <= found.high, plain.estimate(window).accuracy - truth)
            )
        errors_W3 = np.array(drawn, dtype=np.float64)
        pool = float(shift.samples.correct.mean())
        cost = float(shifts[0].samples.correct.mean()) - pool
        means, sizes = errors_W3.mean(axis=0), np.abs(errors_W3).mean(axis=0)
        rows.append((shift.kind, shift.level, pool, cost, sizes[0], means[0], means[1], sizes[2], means[2]))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def by_kind(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Errors and coverage of each kind, its levels counted alike, in the order of the table."""
    means = table.groupby("kind", sort=False)[["cost", "error", "bias", "covered", "plain_error", "plain_bias"]].mean()
    found: Mapping[str, dict[str, float]] = means.to_dict("index")  # type: ignore[assignment]
    return dict(found)


def mean_error(table: pd.DataFrame, kinds: tuple[str, ...], most_cost: float = 1.0) -> float:
    """The mean absolute error over the shifts of these kinds that cost so much accuracy at most; NaN without any."""
    chosen = table[table["kind"].isin(kinds) & (table["cost"] <= most_cost)]
    return float(chosen["error"].mean())
