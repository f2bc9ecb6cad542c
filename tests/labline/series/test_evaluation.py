"""Losses are least at the truth, value at risk holds what it claims, and one table judges every model alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from arch.data import sp500
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.errors import BadInput
from labline.series.backtests import diebold_mariano
from labline.series.baselines import TRADING_DAYS, VarianceForecasts, baseline_forecasts, log_returns, realized_variance
from labline.series.evaluation import (
    block_interval,
    network_forecasts,
    pinball,
    qlike,
    risk_figures,
    risk_table,
    squared_log_error,
    value_at_risk,
)

VARIANCES = st.floats(1e-6, 1e3)


@pytest.fixture(scope="module")
def closes() -> pd.Series:
    return sp500.load()["Close"]


@pytest.fixture(scope="module")
def forecasts(closes: pd.Series) -> dict[str, VarianceForecasts]:
    """The baselines of the last ten years, and a stand-in for a network: GARCH, a little off."""
    found = baseline_forecasts(closes.to_frame("close"), first=2515)
    garch = found["garch"].horizon_variance
    rows = np.flatnonzero(np.isfinite(garch))
    network = network_forecasts(np.log(garch[rows]) / 2, np.full(len(rows), 0.05), rows, len(closes))
    return {"network": network} | found


def days(closes: pd.Series) -> np.ndarray:
    return np.flatnonzero(closes.index >= "2014-01-01")


# Losses ----------------------------------------------------------------------------------------------------------


@given(true=VARIANCES, forecast=VARIANCES)
def test_qlike_is_zero_at_the_truth_and_above_everywhere_else(true: float, forecast: float) -> None:
    assert qlike(np.array([true]), np.array([true])) == 0
    assert qlike(np.array([true]), np.array([forecast]))[0] >= -1e-12


@given(seed=st.integers(0, 1000), factor=st.floats(0.05, 20))
def test_the_mean_of_qlike_is_least_at_the_mean_of_the_realized(seed: int, factor: float) -> None:
    realized = np.random.default_rng(seed).chisquare(5, 200) / 5
    best = np.full(200, realized.mean())
    assert qlike(realized, best).mean() <= qlike(realized, factor * best).mean() + 1e-12


@given(realized=VARIANCES, forecast=VARIANCES, unit=st.floats(1e-3, 1e3))
def test_variance_losses_know_no_unit(realized: float, forecast: float, unit: float) -> None:
    for loss in (qlike, squared_log_error):
        plain = loss(np.array([realized]), np.array([forecast]))
        np.testing.assert_allclose(loss(unit * np.array([realized]), unit * np.array([forecast])), plain, atol=1e-6)


def test_losses_by_hand() -> None:
    realized, forecast = np.array([0.02, 0.04]), np.array([0.04, 0.02])
    np.testing.assert_allclose(qlike(realized, forecast), [0.5 + np.log(2) - 1, 2 - np.log(2) - 1])
    np.testing.assert_allclose(squared_log_error(realized, forecast), np.log(2) ** 2)
    np.testing.assert_allclose(pinball(np.array([-2.0, 1.0]), np.full((2, 1), -1.0), [0.1]), [[0.9], [0.2]])


@given(seed=st.integers(0, 1000), level=st.floats(0.02, 0.98), shift=st.floats(-3, 3))
def test_pinball_is_least_at_the_quantile(seed: int, level: float, shift: float) -> None:
    observed = np.random.default_rng(seed).standard_normal(101)
    quantile = np.quantile(observed, level, method="inverted_cdf")
    best, other = (pinball(observed, np.full((101, 1), at), [level]).mean() for at in (quantile, quantile + shift))
    assert best <= other + 1e-12


def test_the_interval_of_losses_that_hang_together_is_wider() -> None:
    generator = np.random.default_rng(0)
    shocks = generator.standard_normal(1000)
    together = np.convolve(shocks, np.ones(10) / np.sqrt(10), mode="valid")
    alone = generator.permutation(together)
    (low, high), (near_low, near_high) = block_interval(together), block_interval(alone)
    assert low < together.mean() < high
    assert high - low > 2 * (near_high - near_low)
    assert block_interval(together) == (low, high)
    assert block_interval(np.full(50, 0.3)) == (0.3, 0.3)


# A network's forecasts -------------------------------------------------------------------------------------------


def test_a_gaussian_head_becomes_the_mean_of_a_lognormal_variance() -> None:
    found = network_forecasts(np.array([-2.0, -1.5]), np.array([0.3, 0.0]), np.array([1, 3]), days=5)
    sampled = np.exp(2 * np.random.default_rng(0).normal(-2.0, 0.3, 200_000)).mean()
    assert found.horizon_variance[1] == pytest.approx(sampled, rel=0.01)
    assert found.horizon_variance[3] == pytest.approx(np.exp(-3.0))
    assert np.isnan(found.horizon_variance[[0, 2, 4]]).all()


# Value at risk ---------------------------------------------------------------------------------------------------


def moving_market(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fat-tailed log returns and, at each close, the annualized variance that the next day's will have."""
    generator = np.random.default_rng(seed)
    volatility = 0.01 * np.exp(np.sin(np.arange(samples + 1) / 100))
    returns = volatility[:-1] * generator.standard_t(5, samples) / np.sqrt(5 / 3)
    return returns, TRADING_DAYS * volatility[1:] ** 2


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_value_at_risk_is_exceeded_as_often_as_it_says_also_with_variances_of_the_wrong_scale(scale: float) -> None:
    returns, variance = moving_market(20_000, seed=0)
    value = value_at_risk(returns, scale * variance)
    stated = np.isfinite(value[:-1])
    share = np.mean(returns[1:][stated] < -value[:-1][stated])
    assert share == pytest.approx(0.01, abs=0.003)


def test_value_at_risk_follows_the_forecast_volatility() -> None:
    returns, variance = moving_market(3000, seed=1)
    value = value_at_risk(returns, variance)[1500:]
    assert np.corrcoef(value, np.sqrt(variance[1500:]))[0, 1] > 0.95


def test_value_at_risk_needs_a_hundred_days_that_were_forecast() -> None:
    returns, variance = moving_market(400, seed=2)
    variance[:200] = np.nan
    stated = np.isfinite(value_at_risk(returns, variance))
    assert np.flatnonzero(stated)[0] == 300


@settings(max_examples=30, deadline=None)
@given(day=st.integers(150, 598), seed=st.integers(0, 1000))
def test_nothing_later_changes_an_earlier_value_at_risk(day: int, seed: int) -> None:
    returns, variance = moving_market(600, seed=3)
    changed_returns, changed_variance = returns.copy(), variance.copy()
    generator = np.random.default_rng(seed)
    changed_returns[day + 1 :] *= generator.uniform(-3, 3, 599 - day)
    changed_variance[day + 1 :] *= generator.uniform(0.1, 9, 599 - day)
    before, after = value_at_risk(returns, variance), value_at_risk(changed_returns, changed_variance)
    np.testing.assert_allclose(after[: day + 1], before[: day + 1])


# The table -------------------------------------------------------------------------------------------------------


def test_the_table_judges_every_model_on_the_same_days(
    closes: pd.Series, forecasts: dict[str, VarianceForecasts]
) -> None:
    rows = days(closes)
    table = risk_table(forecasts, closes.to_numpy(), rows).set_index("model")
    assert list(table.index) == ["network", "har", "garch", "ewma"]
    assert (table["days"] == len(rows) - 5).all()  # the last five days' horizon has not passed
    assert (table["value_at_risk_days"] == table["days"]).all()
    assert table["qlike"].between(table["qlike_low"], table["qlike_high"]).all()
    assert table["qlike"].between(0.3, 0.9).all()
    assert table["violation_share"].between(0.005, 0.02).all()
    np.testing.assert_allclose(table["violations"], table["violation_share"] * table["value_at_risk_days"])


def test_its_figures_are_those_of_the_single_functions(
    closes: pd.Series, forecasts: dict[str, VarianceForecasts]
) -> None:
    rows = days(closes)[:-5]
    realized = realized_variance(closes.to_numpy(), 5)[rows]
    losses = {name: qlike(realized, forecast.horizon_variance[rows]) for name, forecast in forecasts.items()}
    table = risk_table(forecasts, closes.to_numpy(), rows).set_index("model")
    test = diebold_mariano(losses["ewma"], losses["network"], horizon=5)
    assert table.loc["ewma", "qlike"] == pytest.approx(losses["ewma"].mean())
    assert table.loc["ewma", "diebold_mariano"] == pytest.approx(test.statistic)
    assert table.loc["ewma", "diebold_mariano_p"] == pytest.approx(test.p_value)
    assert np.isnan(table.loc["network", "diebold_mariano"])
    returns = log_returns(closes.to_numpy())
    value = value_at_risk(returns, forecasts["har"].next_day_variance)
    assert table.loc["har", "violations"] == np.sum(returns[rows + 1] < -value[rows])


def test_the_statistic_is_positive_where_the_model_loses_to_the_network(
    closes: pd.Series, forecasts: dict[str, VarianceForecasts]
) -> None:
    clairvoyant = realized_variance(closes.to_numpy(), 5)
    judged = forecasts | {"network": VarianceForecasts(clairvoyant, clairvoyant)}
    table = risk_table(judged, closes.to_numpy(), days(closes)).set_index("model")
    assert table.loc["network", "qlike"] == 0
    assert (table.loc[["har", "garch", "ewma"], "diebold_mariano"] > 5).all()


def test_a_forecast_without_history_has_no_value_at_risk(closes: pd.Series) -> None:
    rows = np.arange(4900, 4980)
    flat = np.full(len(closes), np.nan)
    flat[rows] = 0.02
    table = risk_table({"network": VarianceForecasts(flat, flat)}, closes.to_numpy(), rows)
    assert table.loc[0, "value_at_risk_days"] == 0
    assert table[["kupiec_p", "independence_p", "christoffersen_p", "value_at_risk_loss"]].isna().all(axis=None)


def test_figures_for_a_run_name_the_network_test(closes: pd.Series, forecasts: dict[str, VarianceForecasts]) -> None:
    figures = risk_figures(risk_table(forecasts, closes.to_numpy(), days(closes)))
    assert {"test_qlike", "har_qlike", "garch_qlike", "ewma_qlike", "garch_diebold_mariano_p"} <= figures.keys()
    assert "test_diebold_mariano" not in figures
    assert all(np.isfinite(value) for value in figures.values())


def test_what_cannot_be_compared_is_refused(closes: pd.Series, forecasts: dict[str, VarianceForecasts]) -> None:
    close, rows = closes.to_numpy(), days(closes)
    holed = forecasts["har"].horizon_variance.copy()
    holed[rows[7]] = np.nan
    for judged, against, told in (
        (forecasts, "netwrk", "did you mean 'network'"),
        (forecasts | {"har": VarianceForecasts(holed, holed)}, "network", f"first at row {rows[7]}"),
        (forecasts | {"har": VarianceForecasts(holed[1:], holed[1:])}, "network", "as there are prices"),
    ):
        with pytest.raises(BadInput, match=told):
            risk_table(judged, close, rows, against=against)
    with pytest.raises(BadInput, match="longer test split"):
        risk_table(forecasts, close, rows[-8:])
