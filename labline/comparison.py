"""Is a challenger at least as good as the champion: both judged on the same samples, in pairs.

Shape legend: N samples, K classes, B bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from sklearn import metrics as sklearn_metrics

from labline.evaluation import (
    Floats,
    Integers,
    checked_probabilities,
    classification_metrics,
    resampled_metrics,
    slice_values,
)
from labline.usecase import Metric

GROUP_TYPES = {
    "kind": object,
    "value": object,
    "support": np.int64,
    "champion": np.float64,
    "challenger": np.float64,
    "difference": np.float64,
}
DIGITS = 12  # of a difference: 0.99 - 1 is to be -0.01, as a margin is declared, and not a little less


@dataclass(frozen=True)
class Comparison:
    """A champion and a challenger on the same samples; differences are challenger minus champion.

    `champion`, `challenger` and `difference` are of `metric`. `low` and `high` are one-sided bounds, each at
    `confidence`: the difference is above `low` with that confidence, and below `high` with it.
    `gained` counts the samples that the challenger alone decides rightly, `lost` those that the champion alone does;
    `mcnemar_p` is the two-sided exact p-value of their being alike.
    `groups` has kind ("class", the name of a slice, or "corruption"), value, support, champion, challenger and
    difference: F1 of a class, accuracy of a slice or on corrupted images. Classes without samples are left out. A
    class is not judged by its recall: a champion that drift has left answering one class to everything has all of that.
    """

    samples: int
    metric: Metric
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    confidence: float
    gained: int
    lost: int
    mcnemar_p: float
    groups: pd.DataFrame

    @property
    def verdict(self) -> str:
        """The difference with its bounds and the test, in a line."""
        sure = f"{100 * self.confidence:g} % sure"
        bounds = f"{sure} above {self.low:+.4f}, below {self.high:+.4f}"
        return f"difference {self.difference:+.4f}; {bounds}; McNemar p = {self.mcnemar_p:.3g}"


def compare(
    champion_NK: Floats,
    challenger_NK: Floats,
    targets_N: Integers,
    labels: tuple[str, ...],
    rows: pd.DataFrame,
    metric: Metric,
    bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    corrupted: Mapping[str, tuple[Floats, Floats]] | None = None,
    groupings: Mapping[str, Sequence[str]] | None = None,
) -> Comparison:
    """Compare the probabilities that two models predict for the same samples.

    `rows` are the manifest rows in the order of the predictions. `corrupted` holds, for every corruption by name,
    the champion's and the challenger's probabilities on the corrupted images, in the same order. `groupings` holds
    further groups beside the slices: by kind the value of every sample.

    The bounds come from a percentile bootstrap (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter
    13) whose resamples are the same for both models, so that what is hard for both cancels out. Non-inferiority asks
    for the lower one (Piaggio et al. 2012, "Reporting of Noninferiority and Equivalence Randomized Trials"). The
    p-value is McNemar's (1947, "Note on the sampling error of the difference between correlated proportions"),
    from the binomial distribution. To beware of: models that decide alike everywhere have bounds of 0 however few
    the samples.

    Raises BadInput where the shapes disagree or the rows are not probabilities.
    """
    champion_NK = checked_probabilities(champion_NK, targets_N, labels, rows, "comparison, champion")
    challenger_NK = checked_probabilities(challenger_NK, targets_N, labels, rows, "comparison, challenger")
    champion = classification_metrics(champion_NK, targets_N)[metric]
    challenger = classification_metrics(challenger_NK, targets_N)[metric]
    differences_B = (
        resampled_metrics(challenger_NK, targets_N, bootstrap, seed)[metric]
        - resampled_metrics(champion_NK, targets_N, bootstrap, seed)[metric]
    )
    low, high = _one_sided_bounds(differences_B, confidence)
    right = _right(champion_NK, challenger_NK, targets_N)
    gained = int((right["challenger"] & ~right["champion"]).sum())
    lost = int((right["champion"] & ~right["challenger"]).sum())
    return Comparison(
        samples=len(targets_N),
        metric=metric,
        champion=champion,
        challenger=challenger,
        difference=round(challenger - champion, DIGITS),
        low=low,
        high=high,
        confidence=confidence,
        gained=gained,
        lost=lost,
        mcnemar_p=float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        groups=_groups(champion_NK, challenger_NK, targets_N, labels, rows, corrupted or {}, groupings or {}),
    )


def _one_sided_bounds(differences_B: Floats, confidence: float) -> tuple[float, float]:
    """The quantiles that leave 1 - confidence below and above the defined differences; NaN without any."""
    defined = differences_B[~np.isnan(differences_B)]
    if defined.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [1 - confidence, confidence])
    return round(float(low), DIGITS), round(float(high), DIGITS)


def _right(champion_NK: Floats, challenger_NK: Floats, targets_N: Integers) -> pd.DataFrame:
    """Which samples each model decides rightly: bool columns champion and challenger."""
    decided = {"champion": champion_NK, "challenger": challenger_NK}
    right: dict[str, npt.NDArray[np.bool_]] = {name: p_NK.argmax(axis=1) == targets_N for name, p_NK in decided.items()}
    return pd.DataFrame(right)


def _groups(
    champion_NK: Floats,
    challenger_NK: Floats,
    targets_N: Integers,
    labels: tuple[str, ...],
    rows: pd.DataFrame,
    corrupted: Mapping[str, tuple[Floats, Floats]],
    groupings: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    groups = [_classes(champion_NK, challenger_NK, targets_N, labels)]
    right = _right(champion_NK, challenger_NK, targets_N)
    groups += [_group(kind, pd.Categorical(list(values)), right) for kind, values in groupings.items()]
    groups += [_group(name, pd.Categorical(values_N), right) for name, values_N in slice_values(rows).items()]
    for name, beliefs in corrupted.items():
        theirs_NK, ours_NK = (
            checked_probabilities(beliefs_NK, targets_N, labels, rows, f"comparison, {who} under {name}")
            for who, beliefs_NK in zip(("champion", "challenger"), beliefs, strict=True)
        )
        everywhere_N = pd.Categorical([name] * len(targets_N))
        groups.append(_group("corruption", everywhere_N, _right(theirs_NK, ours_NK, targets_N)))
    return pd.concat(groups, ignore_index=True).astype(GROUP_TYPES)


def _classes(champion_NK: Floats, challenger_NK: Floats, targets_N: Integers, labels: tuple[str, ...]) -> pd.DataFrame:
    """F1 of every class that has samples, as rows of `Comparison.groups`."""
    present, support = np.unique(targets_N, return_counts=True)
    champion, challenger = (
        sklearn_metrics.f1_score(targets_N, p_NK.argmax(axis=1), labels=present, average=None, zero_division=0)
        for p_NK in (champion_NK, challenger_NK)
    )
    return _rows("class", [labels[number] for number in present], support, champion, challenger)


def _group(kind: str, values_N: pd.Categorical, right: pd.DataFrame) -> pd.DataFrame:
    """The shares decided rightly within each value of one grouping, as rows of `Comparison.groups`."""
    grouped = right.groupby(pd.CategoricalIndex(values_N), observed=True)
    shares = grouped.mean()
    values = [str(value) for value in shares.index]
    support = grouped.size().to_numpy()
    return _rows(kind, values, support, shares["champion"].to_numpy(), shares["challenger"].to_numpy())


def _rows(kind: str, values: list[str], support: Integers, champion: Floats, challenger: Floats) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "kind": kind,
            "value": values,
            "support": support,
            "champion": champion,
            "challenger": challenger,
            "difference": (challenger - champion).round(DIGITS),
        }
    )
