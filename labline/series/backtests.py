"""Statistical tests of forecasts: is value at risk exceeded as often as it claims, is one forecast better than another.

A value at risk of level 0.99 is right where it is exceeded on 1 % of days, whatever happened on the days before.

Shape legend: N days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import xlogy

from labline.errors import BadInput

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class StatisticalTest:
    """A test's statistic, and how often one as extreme comes up where the null hypothesis holds (0 to 1)."""

    statistic: float
    p_value: float


def unconditional_coverage(violations_N: Flags, level: float = 0.99) -> StatisticalTest:
    """Kupiec's test that the share of violations is 1 - level: likelihood ratio, chi-squared with one degree.

    Kupiec 1995, "Techniques for Verifying the Accuracy of Risk Measurement Models".
    Raises BadInput where there are no days, or the level does not lie within 0 and 1.
    """
    _check(violations_N, level)
    days, found = len(violations_N), int(violations_N.sum())
    claimed = _log_likelihood(days - found, found, 1 - level)
    return _likelihood_ratio(claimed, _log_likelihood(days - found, found, found / days), degrees=1)


def independence(violations_N: Flags) -> StatisticalTest:
    """Christoffersen's test that a violation is as likely after a violation as after a calm day.

    Against a first-order Markov chain: likelihood ratio, chi-squared with one degree. Christoffersen 1998,
    "Evaluating Interval Forecasts". Where no day follows a violation, or all do, nothing tells the two
    apart: the statistic is 0. Raises BadInput where there are no days.
    """
    _check(violations_N, 0.5)
    before, after = violations_N[:-1], violations_N[1:]
    alone = _log_likelihood(int((~after).sum()), int(after.sum()), _share(after))
    chained = sum(
        _log_likelihood(int((~following).sum()), int(following.sum()), _share(following))
        for following in (after[before], after[~before])
    )
    return _likelihood_ratio(alone, chained, degrees=1)


def conditional_coverage(violations_N: Flags, level: float = 0.99) -> StatisticalTest:
    """Christoffersen's joint test of the right share and of independence, chi-squared with two degrees.

    The sum of the two statistics: Christoffersen 1998. Raises BadInput as `unconditional_coverage`.
    """
    statistic = unconditional_coverage(violations_N, level).statistic + independence(violations_N).statistic
    return StatisticalTest(statistic, float(stats.chi2.sf(statistic, 2)))


def diebold_mariano(
    losses_N: Floats, reference_N: Floats, horizon: int = 1, alternative: Alternative = "two-sided"
) -> StatisticalTest:
    """Are two forecasts' expected losses equal? Positive where `losses_N` are the larger ones: the reference is better.

    Losses are of the same consecutive days, forecast `horizon` days ahead. `alternative` is what a small p-value
    speaks for: "greater" that `losses_N` are larger than the reference's. Diebold & Mariano 1995, "Comparing
    Predictive Accuracy", with the small-sample correction and Student's t of Harvey, Leybourne & Newbold 1997,
    "Testing the Equality of Prediction Mean Squared Errors". The variance of the mean counts the
    horizon - 1 autocovariances that overlapping horizons bring; where that comes out negative, Bartlett's weights
    replace the equal ones (Harvey, Leybourne & Whitehouse 2017, "Forecast Evaluation Tests and Negative Long-Run
    Variance Estimates in Small Samples").

    Raises BadInput where lengths differ, a loss is not finite, or there are no more days than the horizon.
    """
    days = len(losses_N)
    if losses_N.shape != reference_N.shape or horizon < 1 or days <= horizon:
        raise BadInput(
            f"Diebold–Mariano: losses of {days} and {len(reference_N)} days at horizon {horizon}, expected the same "
            "days of both, more than the horizon, and a horizon of 1 or more"
        )
    differences_N = losses_N - reference_N
    if not np.isfinite(differences_N).all():
        raise BadInput("Diebold–Mariano: a loss is not a finite number; a forecast or a realized value is zero or NaN")
    mean = float(differences_N.mean())
    spread = np.sqrt(_long_run_variance(differences_N, horizon) / days)
    correction = np.sqrt((days + 1 - 2 * horizon + horizon * (horizon - 1) / days) / days)
    statistic = correction * mean / spread if spread > 0 else np.copysign(np.inf, mean) if mean else 0.0
    student = stats.t(days - 1)
    p_values = {
        "two-sided": 2 * student.sf(abs(statistic)),
        "greater": student.sf(statistic),
        "less": student.cdf(statistic),
    }
    return StatisticalTest(float(statistic), float(p_values[alternative]))


def _long_run_variance(values_N: Floats, horizon: int) -> float:
    centred_N = values_N - values_N.mean()
    days = len(values_N)
    autocovariances = np.array([centred_N[lag:] @ centred_N[: days - lag] / days for lag in range(horizon)])
    equal, bartlett = np.full(horizon, 2.0), 2 * (1 - np.arange(horizon) / horizon)
    equal[0] = bartlett[0] = 1
    estimate = float(equal @ autocovariances)
    return estimate if estimate > 0 else float(bartlett @ autocovariances)


def _log_likelihood(calm: int, violations: int, share: float) -> float:
    return float(xlogy(calm, 1 - share) + xlogy(violations, share))


def _share(violations_N: Flags) -> float:
    return float(violations_N.mean()) if len(violations_N) else 0.0


def _likelihood_ratio(restricted: float, free: float, degrees: int) -> StatisticalTest:
    statistic = max(2 * (free - restricted), 0.0)  # rounding can leave it a hair below zero
    return StatisticalTest(statistic, float(stats.chi2.sf(statistic, degrees)))


def _check(violations_N: Flags, level: float) -> None:
    if len(violations_N) == 0 or violations_N.dtype != np.bool_ or not 0 < level < 1:
        raise BadInput(
            f"value at risk: {len(violations_N)} days of {violations_N.dtype} at level {level}, expected one flag "
            "(bool) or more, and a level between 0 and 1"
        )
