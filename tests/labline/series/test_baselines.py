"""The baselines see the past alone, agree with `arch` where it does the same, and know a variance when they see one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from arch import arch_model
from arch.data import sp500
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.errors import BadInput
from labline.series.baselines import (
    LEAST_DAILY_VARIANCE,
    TRADING_DAYS,
    baseline_forecasts,
    daily_variance,
    ewma,
    garch,
    har,
    log_returns,
    realized_variance,
)
from labline.series.evaluation import qlike

FIRST, REFIT, HORIZON = 300, 120, 5


def prices(days: int | None = None) -> pd.DataFrame:
    """The S&P 500 from 2001 on: on the two calm years before, GARCH finds no alpha, and then sees no price."""
    loaded = sp500.load().rename(columns=str.lower)[["open", "high", "low", "close"]]
    return loaded.iloc[500:] if days is None else loaded.iloc[500 : 500 + days]


def simulated(days: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Closes that follow a GARCH(1,1), and the variance, annualized, of the day after each."""
    shocks = np.random.default_rng(seed).standard_normal(days)
    variance, returns = np.full(days + 1, 1e-4), np.zeros(days)
    for day in range(days):
        returns[day] = shocks[day] * np.sqrt(variance[day])
        variance[day + 1] = 2e-6 + 0.08 * returns[day] ** 2 + 0.9 * variance[day]
    return 100 * np.exp(np.cumsum(returns)), TRADING_DAYS * variance[1:]


# The target ------------------------------------------------------------------------------------------------------


def test_the_target_lies_strictly_after_the_day() -> None:
    close = np.array([100.0, 200.0, 100.0, 100.0, 100.0])
    square = np.log(2) ** 2
    expected = TRADING_DAYS * np.array([square, square / 2, LEAST_DAILY_VARIANCE, np.nan, np.nan])
    np.testing.assert_allclose(realized_variance(close, 2), expected)


def test_ranges_estimate_the_same_variance_as_returns_with_less_noise() -> None:
    generator = np.random.default_rng(0)
    paths = 0.01 / np.sqrt(400) * generator.standard_normal((2000, 400)).cumsum(axis=1)
    low, high = np.minimum(paths.min(axis=1), 0), np.maximum(paths.max(axis=1), 0)
    days = pd.DataFrame({"open": 1.0, "high": np.exp(high), "low": np.exp(low), "close": np.exp(paths[:, -1])})
    ranges, squares = daily_variance(days), paths[:, -1] ** 2
    assert ranges.mean() == pytest.approx(1e-4, rel=0.1)  # a path of 400 steps misses a little of its range
    assert squares.mean() == pytest.approx(1e-4, rel=0.15)
    assert squares.var() / ranges.var() > 5


def test_without_ranges_squared_returns_stand_in() -> None:
    close = prices(50)[["close"]]
    np.testing.assert_allclose(daily_variance(close), log_returns(close["close"].to_numpy()) ** 2)


# Look-ahead ------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    day=st.integers(FIRST, 698), factors=st.lists(st.floats(0.5, 2), min_size=1, max_size=4), seed=st.integers(0, 99)
)
def test_no_later_price_changes_an_earlier_forecast(day: int, factors: list[float], seed: int) -> None:
    known = prices(700)
    changed = known.copy()
    later = np.random.default_rng(seed).choice(factors, 700 - day - 1)
    changed.iloc[day + 1 :] *= later[:, None]
    before, after = (baseline_forecasts(given, FIRST, HORIZON, REFIT) for given in (known, changed))
    for name, forecast in before.items():
        until = slice(day + 1)
        np.testing.assert_allclose(
            after[name].horizon_variance[until], forecast.horizon_variance[until], rtol=1e-9, err_msg=name
        )
        np.testing.assert_allclose(
            after[name].next_day_variance[until], forecast.next_day_variance[until], rtol=1e-9, err_msg=name
        )


@pytest.mark.parametrize("day", [FIRST - 1, FIRST, FIRST + 50, 699])
def test_every_day_is_forecast_with_its_own_price(day: int) -> None:
    known, changed = prices(700), prices(700).copy()
    changed.iloc[day, 3] *= 1.05
    before, after = (baseline_forecasts(given, FIRST, HORIZON, REFIT) for given in (known, changed))
    for name, forecast in before.items():
        moved = np.flatnonzero(~np.isclose(after[name].horizon_variance, forecast.horizon_variance, equal_nan=True))
        assert moved[0] == max(day, FIRST), name


def test_forecasts_begin_at_the_first_row_and_never_stop() -> None:
    for forecast in baseline_forecasts(prices(500), FIRST, HORIZON, REFIT).values():
        for values in (forecast.horizon_variance, forecast.next_day_variance):
            assert np.isnan(values[:FIRST]).all()
            assert (values[FIRST:] > 0).all()


def test_parameters_stay_frozen_until_the_next_refit() -> None:
    close = prices(700)["close"].to_numpy()
    often, seldom = (garch(close, FIRST, HORIZON, refit).next_day_variance for refit in (100, 200))
    np.testing.assert_allclose(often[FIRST : FIRST + 100], seldom[FIRST : FIRST + 100])
    assert not np.isclose(often[FIRST + 100 : FIRST + 200], seldom[FIRST + 100 : FIRST + 200], rtol=1e-4).any()
    np.testing.assert_allclose(often[FIRST + 200 : FIRST + 300], seldom[FIRST + 200 : FIRST + 300])


# Each baseline ---------------------------------------------------------------------------------------------------


def test_garch_is_that_of_arch_also_days_after_its_estimate() -> None:
    close = prices(500)["close"].to_numpy()
    returns = log_returns(close)[1:]
    scale = np.sqrt(np.mean(returns[:FIRST] ** 2))
    estimated = arch_model(returns[:FIRST] / scale, mean="Zero", rescale=False).fit(disp="off")
    fixed = arch_model(returns / scale, mean="Zero", rescale=False).fix(estimated.params)
    days = fixed.forecast(horizon=HORIZON, start=FIRST - 1).variance.to_numpy() * scale**2 * TRADING_DAYS
    found = garch(close, FIRST, HORIZON, refit=500)
    np.testing.assert_allclose(found.next_day_variance[FIRST:], days[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found.horizon_variance[FIRST:], days.mean(axis=1), rtol=1e-6)


def test_garch_finds_the_variance_that_made_the_prices() -> None:
    close, true = simulated(4000, seed=0)
    found = garch(close, 2000, HORIZON).next_day_variance
    assert np.corrcoef(found[2000:], true[2000:])[0, 1] > 0.98
    assert np.mean(found[2000:] / true[2000:]) == pytest.approx(1, abs=0.1)


def test_ewma_is_that_of_riskmetrics() -> None:
    close = prices(800)["close"].to_numpy()
    found = ewma(close, FIRST).next_day_variance
    squares = TRADING_DAYS * log_returns(close) ** 2
    np.testing.assert_allclose(found[FIRST + 1 :], 0.94 * found[FIRST:-1] + 0.06 * squares[FIRST + 1 :], rtol=1e-6)


def test_har_learns_how_much_day_week_and_month_weigh() -> None:
    generator = np.random.default_rng(0)
    measured = np.exp(generator.normal(-9.2, 0.5, 3000))
    past = pd.Series(measured)
    weighed = 0.2 * past + 0.3 * past.rolling(5).mean() + 0.4 * past.rolling(22).mean() + 1e-5
    returns = np.sqrt(weighed.shift(1).fillna(1e-4).to_numpy()) * np.where(generator.random(3000) < 0.5, 1, -1)
    found = har(np.exp(np.cumsum(returns)), measured, first=1000).next_day_variance
    np.testing.assert_allclose(found[1000:], TRADING_DAYS * weighed[1000:], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0, 3), degrees=st.floats(1.5, 10))
def test_har_is_positive_whatever_the_prices(seed: int, spread: float, degrees: float) -> None:
    generator = np.random.default_rng(seed)
    returns = 0.01 * generator.standard_t(degrees, 400).clip(-30, 30) * np.exp(spread * generator.standard_normal(400))
    forecast = har(np.exp(np.cumsum(returns.clip(-2, 2))), returns**2, first=200, horizon=3, refit=50)
    assert (forecast.horizon_variance[200:] > 0).all() and (forecast.next_day_variance[200:] > 0).all()


def test_har_replaces_a_line_below_zero_by_the_mean() -> None:
    """The target is small after large ranges here, so that a range never seen before would forecast less than zero."""
    generator = np.random.default_rng(0)
    ranges = generator.uniform(0, 1, 500) * 1e-4
    returns = np.sqrt(1.1e-4 - np.append(0, ranges[:-1])) * np.where(generator.random(500) < 0.5, 1, -1)
    close = np.exp(np.cumsum(returns))
    ranges[499] = 1e-2
    forecast = har(close, ranges, first=400, horizon=1).horizon_variance
    past = realized_variance(close, 1)[22:400]
    assert forecast[499] == pytest.approx(past.mean())
    assert forecast[498] != pytest.approx(past.mean())


def test_each_baseline_beats_the_mean_of_the_past_on_the_index() -> None:
    known = prices()
    first = 2200
    realized = realized_variance(known["close"].to_numpy(), HORIZON)
    seen = np.isfinite(realized) & (np.arange(len(known)) >= first)
    losses = {
        name: qlike(realized[seen], forecast.horizon_variance[seen]).mean()
        for name, forecast in baseline_forecasts(known, first).items()
    }
    flat = TRADING_DAYS * pd.Series(log_returns(known["close"].to_numpy()) ** 2).expanding().mean().to_numpy()
    assert max(losses.values()) < qlike(realized[seen], flat[seen]).mean()
    assert losses["har"] < losses["garch"] < losses["ewma"]


# What is refused -------------------------------------------------------------------------------------------------


def test_prices_that_cannot_be_used_are_refused() -> None:
    holed, negative = prices(500).copy(), prices(500).copy()
    holed.iloc[17, 3] = np.nan
    negative.iloc[3, 0] = -1
    for wrong, told in ((holed, "row 17 and 0 more"), (negative, "row 3 and 0 more")):
        with pytest.raises(BadInput, match=told):
            baseline_forecasts(wrong, FIRST)


@pytest.mark.parametrize(("first", "days"), [(50, 500), (500, 500), (104, 10)])
def test_too_short_a_history_is_refused(first: int, days: int) -> None:
    with pytest.raises(BadInput, match="more history"):
        baseline_forecasts(prices(days), first)


def test_an_unknown_price_and_a_price_that_never_moves_are_refused() -> None:
    with pytest.raises(BadInput, match="no column 'settlement'"):
        baseline_forecasts(prices(500), FIRST, price="settlement")
    with pytest.raises(BadInput, match="the price is the same"):
        baseline_forecasts(pd.DataFrame({"close": np.full(500, 7.0)}), FIRST)


def test_no_horizon_and_no_refit_are_refused() -> None:
    for horizon, refit in ((0, 250), (5, 0)):
        with pytest.raises(BadInput, match="expected 1 or more of each"):
            baseline_forecasts(prices(500), FIRST, horizon, refit)
