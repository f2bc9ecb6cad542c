"""How much better the winner of a search is, and how sure that is: it was chosen by the very samples that judge it.

Shape legend: T trials, N validation samples, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labline.evaluation import CONFIDENCE_LEVEL, Interval, wilson_interval
from labline.series.usecase import SeriesUseCase
from labline.tuning.predictions import Predictions, on_common_samples, weighted_figure
from labline.usecase import UseCase

Floats = npt.NDArray[np.float64]

RESAMPLES = 500


@dataclass(frozen=True)
class Gain:
    """The declaration and the winner on the same `samples` of validation, with 95 % intervals.

    `difference` is winner less declaration, positive where it is better, with its paired interval; `expected` is what
    remains of it on samples that did not choose, `expected_interval` its interval: see `gain_of`. Of the declaration
    itself all of these are 0.
    """

    metric: str
    samples: int
    trials: int
    declared: float
    declared_interval: Interval
    winner: float
    winner_interval: Interval
    difference: float
    difference_interval: Interval
    expected: float
    expected_interval: Interval

    @property
    def is_shown(self) -> bool:
        """Whether the gain is more than luck and choosing explain."""
        return self.expected_interval[0] > 0

    @property
    def verdict(self) -> str:
        """The gain in a sentence."""
        if self.difference == 0:
            return f"nothing beat the declaration on {self.samples:,} validation samples"
        low, high = self.expected_interval
        seen = f"{self.difference:+.4f} {self.metric} on {self.samples:,} validation samples"
        left = f"{self.expected:+.4f} ({low:+.4f} to {high:+.4f}) on samples that did not choose it"
        said = "more than luck" if self.is_shown else "within noise"
        return f"{seen}; {left}: {said}"


def gain_of(
    declaration: UseCase, metric: str, higher: bool, found: Sequence[Predictions], winner: int, seed: int = 0
) -> Gain:
    """Compare the winner with the declaration, whose predictions are the first of T, on the samples all of them have.

    The best of many trials flatters itself on the samples it was chosen by. So the choice is made again on each
    bootstrap resample and judged on the samples that the resample left out: the "bootstrap bias corrected
    cross-validation" of Tsamardinos, Greasidou & Borboudakis 2018 ("Bootstrapping the out-of-sample predictions for
    efficient and accurate cross-validation"), here of the difference. Intervals are percentiles, of accuracy by
    itself Wilson's; samples of a series are drawn in blocks, because days that follow each other are alike.
    """
    aligned = on_common_samples(found)
    counts_NB = _resamples(declaration, aligned[0], metric, seed)
    samples = len(counts_NB)
    whole_T1 = np.stack([weighted_figure(declaration, each, metric, np.ones((samples, 1))) for each in aligned])
    chosen_TB = np.stack([weighted_figure(declaration, each, metric, counts_NB) for each in aligned])
    left_out_TB = np.stack([weighted_figure(declaration, each, metric, counts_NB == 0) for each in aligned])
    sign = 1 if higher else -1
    picked_B = np.nanargmax(np.nan_to_num(sign * chosen_TB, nan=-np.inf), axis=0)
    expected_B = sign * (left_out_TB[picked_B, np.arange(counts_NB.shape[1])] - left_out_TB[0])
    declared, best = float(whole_T1[0, 0]), float(whole_T1[winner, 0])
    same = winner == 0
    return Gain(
        metric=metric,
        samples=samples,
        trials=len(found),
        declared=declared,
        declared_interval=_interval_of(metric, declared, chosen_TB[0], samples),
        winner=best,
        winner_interval=_interval_of(metric, best, chosen_TB[winner], samples),
        difference=sign * (best - declared),
        difference_interval=_percentiles(sign * (chosen_TB[winner] - chosen_TB[0])),
        expected=0.0 if same else float(np.nanmean(expected_B)),
        expected_interval=(0.0, 0.0) if same else _percentiles(expected_B),
    )


def _resamples(declaration: UseCase, predictions: Predictions, metric: str, seed: int) -> npt.NDArray[np.float64]:
    """How often each sample is in each resample: N x B."""
    samples = len(predictions.ids)
    if not isinstance(declaration, SeriesUseCase):
        drawn = np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), size=RESAMPLES)
        return drawn.T.astype(np.float64)
    from arch.bootstrap import StationaryBootstrap

    length = max(declaration.features.horizon, round(samples ** (1 / 3)))
    drawn_from = StationaryBootstrap(length, np.arange(samples), seed=seed)
    return np.stack(
        [np.bincount(positions[0][0], minlength=samples) for positions in drawn_from.bootstrap(RESAMPLES)], axis=1
    ).astype(np.float64)


def _interval_of(metric: str, value: float, values_B: Floats, samples: int) -> Interval:
    if metric == "accuracy":
        return wilson_interval(round(value * samples), samples)
    return _percentiles(values_B)


def _percentiles(values_B: Floats) -> Interval:
    low, high = np.nanquantile(values_B, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return float(low), float(high)
