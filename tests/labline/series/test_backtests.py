"""The statistical tests reject what is wrong, and wrongly reject about as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labline.errors import BadInput
from labline.series.backtests import (
    Alternative,
    conditional_coverage,
    diebold_mariano,
    independence,
    unconditional_coverage,
)


def flags(violations: int, days: int) -> np.ndarray:
    """Violations spread over the days, none next to another."""
    found = np.zeros(days, dtype=bool)
    found[np.linspace(1, days - 2, violations).astype(int)] = True
    return found


def markov(days: int, after_calm: float, after_violation: float, generator: np.random.Generator) -> np.ndarray:
    draws, found = generator.random(days), np.zeros(days, dtype=bool)
    for day in range(1, days):
        found[day] = draws[day] < (after_violation if found[day - 1] else after_calm)
    return found


# Kupiec: coverage ------------------------------------------------------------------------------------------------


def test_kupiec_by_hand() -> None:
    by_hand = -2 * (np.log(0.99**245 * 0.01**5) - np.log((245 / 250) ** 245 * (5 / 250) ** 5))
    found = unconditional_coverage(flags(5, 250))
    assert found.statistic == pytest.approx(by_hand)
    assert found.p_value == pytest.approx(stats.chi2.sf(by_hand, 1))


@pytest.mark.parametrize(
    ("level", "days", "fewest", "most"),
    # Kupiec 1995, as reproduced in Jorion 2006, "Value at Risk", chapter 6: failures not rejected at 5 %.
    [(0.99, 510, 2, 10), (0.99, 1000, 5, 16), (0.975, 1000, 16, 35), (0.95, 255, 7, 20), (0.95, 1000, 38, 64)],
)
def test_kupiecs_own_table_of_acceptable_failures(level: float, days: int, fewest: int, most: int) -> None:
    kept = [n for n in range(100) if unconditional_coverage(np.arange(days) < n, level).p_value > 0.05]
    assert (kept[0], kept[-1]) == (fewest, most)


def test_kupiec_without_violations_and_with_nothing_else() -> None:
    assert unconditional_coverage(np.zeros(500, dtype=bool)).statistic == pytest.approx(-2 * 500 * np.log(0.99))
    assert unconditional_coverage(np.ones(10, dtype=bool)).p_value < 1e-10


def test_kupiec_rejects_wrong_coverage_and_seldom_right_coverage() -> None:
    generator = np.random.default_rng(0)
    right = [unconditional_coverage(generator.random(1250) < 0.01).p_value for _ in range(1000)]
    wrong = [unconditional_coverage(generator.random(1250) < 0.03).p_value for _ in range(200)]
    assert 0.02 < np.mean(np.array(right) < 0.05) < 0.09
    assert np.mean(np.array(wrong) < 0.05) > 0.95


@given(days=st.integers(1, 400), violations=st.integers(0, 400), level=st.floats(0.5, 0.999))
def test_kupiec_is_a_likelihood_ratio(days: int, violations: int, level: float) -> None:
    found = unconditional_coverage(np.arange(days) < violations, level)
    assert found.statistic >= 0
    assert 0 <= found.p_value <= 1


# Christoffersen: independence ------------------------------------------------------------------------------------


def test_christoffersen_by_hand() -> None:
    violations = np.array([0, 1, 1, 0, 0, 0, 1, 0, 0, 0], dtype=bool)
    # Of 9 days with a day before: after 6 calm days 2 violations, after 3 violations 1.
    alone = np.log((6 / 9) ** 6 * (3 / 9) ** 3)
    chained = np.log((4 / 6) ** 4 * (2 / 6) ** 2) + np.log((2 / 3) ** 2 * (1 / 3) ** 1)
    assert independence(violations).statistic == pytest.approx(2 * (chained - alone), abs=1e-12)


def test_christoffersen_rejects_clusters_and_seldom_independent_violations() -> None:
    generator = np.random.default_rng(0)
    clustered = [independence(markov(1250, 0.01, 0.3, generator)).p_value for _ in range(100)]
    alone = [independence(generator.random(1250) < 0.05).p_value for _ in range(1000)]
    assert np.mean(np.array(clustered) < 0.05) > 0.85
    assert 0.02 < np.mean(np.array(alone) < 0.05) < 0.10


def test_clusters_of_the_right_share_are_found_by_christoffersen_alone() -> None:
    violations = np.zeros(1000, dtype=bool)
    violations[500:510] = True
    assert unconditional_coverage(violations).p_value > 0.9
    assert independence(violations).p_value < 1e-6
    assert conditional_coverage(violations).p_value < 1e-6


@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_conditional_coverage_is_the_sum_of_both(seed: int, share: float) -> None:
    violations = np.random.default_rng(seed).random(300) < share
    joint = conditional_coverage(violations)
    parts = unconditional_coverage(violations).statistic + independence(violations).statistic
    assert joint.statistic == pytest.approx(parts)
    assert joint.p_value == pytest.approx(stats.chi2.sf(parts, 2))


@pytest.mark.parametrize("violations", [np.zeros(100, dtype=bool), np.ones(100, dtype=bool), np.array([True])])
def test_where_nothing_varies_nothing_speaks_against_independence(violations: np.ndarray) -> None:
    assert independence(violations).p_value == 1


@pytest.mark.parametrize("violations", [np.array([], dtype=bool), np.array([0, 1, 0])])
def test_no_days_and_no_flags_are_refused(violations: np.ndarray) -> None:
    with pytest.raises(BadInput, match="expected one flag"):
        conditional_coverage(violations)


# Diebold and Mariano ---------------------------------------------------------------------------------------------


def overlapping(days: int, horizon: int, generator: np.random.Generator) -> np.ndarray:
    """Loss differences of mean zero as forecasts `horizon` days ahead bring them: a moving sum of as many shocks."""
    shocks = generator.standard_normal(days + horizon - 1)
    return np.convolve(shocks, np.ones(horizon), mode="valid")


def test_the_sign_says_who_loses_more() -> None:
    generator = np.random.default_rng(0)
    better = generator.random(500)
    worse = better + 0.1 + 0.1 * generator.standard_normal(500)
    assert diebold_mariano(worse, better).statistic > 5
    assert diebold_mariano(better, worse).statistic == pytest.approx(-diebold_mariano(worse, better).statistic)
    assert diebold_mariano(worse, better, alternative="greater").p_value < 1e-6
    assert diebold_mariano(worse, better, alternative="less").p_value > 1 - 1e-6


def test_one_day_ahead_it_is_students_t() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, 80)
    expected = stats.ttest_1samp(differences, 0)
    found = diebold_mariano(differences, np.zeros(80))
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue)


def test_three_days_ahead_by_hand() -> None:
    differences = np.random.default_rng(1).normal(0.2, 1, 60)
    centred = differences - differences.mean()
    covariances = [np.sum(centred[lag:] * centred[: 60 - lag]) / 60 for lag in range(3)]
    plain = differences.mean() / np.sqrt((covariances[0] + 2 * covariances[1] + 2 * covariances[2]) / 60)
    corrected = plain * np.sqrt((60 + 1 - 2 * 3 + 3 * 2 / 60) / 60)
    assert diebold_mariano(differences, np.zeros(60), horizon=3).statistic == pytest.approx(corrected)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_of_equal_forecasts_it_rejects_about_as_often_as_it_says(alternative: Alternative) -> None:
    generator = np.random.default_rng(0)
    rejected = [
        diebold_mariano(overlapping(500, 5, generator), np.zeros(500), 5, alternative).p_value < 0.05
        for _ in range(1000)
    ]
    assert 0.02 < np.mean(rejected) < 0.09


def test_a_horizon_that_is_not_told_makes_it_reject_too_often() -> None:
    generator = np.random.default_rng(0)
    differences = [overlapping(500, 5, generator) for _ in range(300)]
    rejected = [diebold_mariano(values, np.zeros(500), horizon=1).p_value < 0.05 for values in differences]
    assert np.mean(rejected) > 0.25


def test_a_negative_variance_estimate_is_avoided() -> None:
    alternating = np.where(np.arange(40) % 2, 1.0, -1.0) + 0.01
    found = diebold_mariano(alternating, np.zeros(40), horizon=2)
    assert np.isfinite(found.statistic) and 0 < found.p_value < 1


def test_the_same_forecasts_are_equal_and_a_constant_advantage_is_certain() -> None:
    losses = np.arange(1.0, 101.0)
    assert diebold_mariano(losses, losses, 5).p_value == 1
    assert diebold_mariano(losses + 1, losses, 5, "greater").p_value == 0


@pytest.mark.parametrize(
    ("losses", "horizon", "told"),
    [(np.ones(5), 1, "the same days"), (np.ones(10), 10, "more than the horizon"), (np.full(10, np.nan), 1, "finite")],
)
def test_losses_that_cannot_be_compared_are_refused(losses: np.ndarray, horizon: int, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        diebold_mariano(losses, np.ones(10), horizon)
