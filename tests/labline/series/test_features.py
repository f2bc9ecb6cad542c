from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from labline.errors import BadInput
from labline.series.baselines import daily_variance, realized_variance
from labline.series.declaration import Features
from labline.series.features import compute_features, compute_target, garman_klass_variance, parkinson_variance


def make_rows(prices: list[float] | np.ndarray, stretch: int | list[int] = 0) -> pd.DataFrame:
    return pd.DataFrame({"close": np.asarray(prices, dtype=np.float64), "stretch": stretch})


def feature(rows: pd.DataFrame, text: str) -> list[float]:
    values: list[float] = compute_features(rows, [text])[:, 0].tolist()
    return values


def walk(days: int = 300, seed: int = 0) -> np.ndarray:
    return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, days)))


# --- closed forms ------------------------------------------------------------------------------------------------


def test_parkinson_of_a_range_of_e_is_one_over_four_log_two() -> None:
    assert parkinson_variance(np.array([np.e]), np.array([1.0])) == pytest.approx(1 / (4 * np.log(2)))


def test_garman_klass_without_drift_is_half_the_squared_range() -> None:
    one = np.ones(1)
    assert garman_klass_variance(one, one * np.e, one, one) == pytest.approx(0.5)


def test_garman_klass_of_a_day_that_only_rises_is_one_minus_log_two() -> None:
    low, high = np.ones(1), np.full(1, np.e)  # 1/2 - (2 ln 2 - 1)
    assert garman_klass_variance(low, high, low, high) == pytest.approx(1.5 - 2 * np.log(2))


def test_both_estimators_are_unbiased_for_a_random_walk_without_drift() -> None:
    """1,000 days of 4,000 steps; the range of so few steps is short by some percent (Garman & Klass 1980, table 1)."""
    steps = np.random.default_rng(0).normal(0, 0.01 / np.sqrt(4000), (1000, 4000))
    path = np.exp(np.cumsum(steps, axis=1))
    high, low = np.maximum(path.max(axis=1), 1), np.minimum(path.min(axis=1), 1)
    opened, close = np.ones(1000), path[:, -1]
    assert parkinson_variance(high, low).mean() == pytest.approx(1e-4, rel=0.06)
    assert garman_klass_variance(opened, high, low, close).mean() == pytest.approx(1e-4, rel=0.06)


def test_impossible_ranges_have_no_variance() -> None:
    two, one = np.full(1, 2.0), np.ones(1)
    assert np.isnan(parkinson_variance(one, two)) and np.isnan(parkinson_variance(one, -one))
    assert np.isnan(garman_klass_variance(one, one, one, two))


def test_garman_klass_is_that_of_the_baselines() -> None:
    close = walk()
    rows = pd.DataFrame({"open": close * 0.999, "high": close * 1.01, "low": close * 0.98, "close": close})
    own = garman_klass_variance(*(rows[name].to_numpy() for name in ("open", "high", "low", "close")))
    np.testing.assert_allclose(own, daily_variance(rows), rtol=1e-9)


# --- expressions -------------------------------------------------------------------------------------------------


def test_each_word_means_what_it_says() -> None:
    rows = make_rows([1, 2, 4, 8, 1])
    nan, log2 = np.nan, np.log(2)
    expected = {
        "close": [1, 2, 4, 8, 1],
        "log(close)": [0, log2, 2 * log2, 3 * log2, 0],
        "log-return(close)": [nan, log2, log2, log2, -3 * log2],
        "difference(close)": [nan, 1, 2, 4, -7],
        "absolute(difference(close))": [nan, 1, 2, 4, 7],
        "square(close)": [1, 4, 16, 64, 1],
        "lag(close, 2)": [nan, nan, 1, 2, 4],
        "rolling-mean(close, 2)": [nan, 1.5, 3, 6, 4.5],
        "rolling-std(close, 2)": [nan, *(np.array([1, 2, 4, 7]) / np.sqrt(2))],
        "lag(close, 7)": [nan] * 5,
        "rolling-std(close, 7)": [nan] * 5,
    }
    for text, values in expected.items():
        assert feature(rows, text) == pytest.approx(values, nan_ok=True), text


def test_rolling_statistics_are_those_of_pandas() -> None:
    rows = make_rows(walk())
    rolling = rows["close"].rolling(20)
    np.testing.assert_allclose(feature(rows, "rolling-mean(close, 20)"), rolling.mean(), rtol=1e-6)
    np.testing.assert_allclose(feature(rows, "rolling-std(close, 20)"), rolling.std(), rtol=1e-5)


def test_nothing_reaches_from_one_stretch_into_another() -> None:
    rows = make_rows([1, 2, 4, 100, 200, 400], [0, 0, 0, 1, 1, 1])
    for text in ("log-return(close)", "lag(close, 1)", "rolling-mean(close, 2)", "rolling-std(close, 2)"):
        assert np.isnan(feature(rows, text)[3]) and not np.isnan(feature(rows, text)[4]), text


def test_what_has_no_value_is_missing_and_never_infinite() -> None:
    rows = make_rows([1, 0, -1, 2, np.inf, 1e300])
    assert np.isnan(feature(rows, "log(close)")[1:3]).all()
    assert np.isnan(feature(rows, "square(close)")[4:]).all()
    assert np.isnan(feature(rows, "log-return(close)")[1:4]).all()


def test_the_same_rows_give_the_same_feature_wherever_they_stand() -> None:
    """So that a service that holds the last 40 rows computes what training saw."""
    rows = make_rows(walk())
    text = "rolling-std(log-return(close), 20)"
    assert feature(rows, text)[-1] == feature(rows.tail(40), text)[-1]
    assert feature(rows, text)[-1] == feature(make_rows([*np.full(50, 1e12), *rows["close"]]), text)[-1]


def test_an_unknown_column_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="no column 'clsoe'; did you mean 'close'"):
        feature(make_rows([1.0]), "log(clsoe)")


# --- targets -----------------------------------------------------------------------------------------------------


def target(rows: pd.DataFrame, name: str, horizon: int) -> np.ndarray:
    return compute_target(rows, Features.model_validate({"inputs": ["close"], "target": name, "horizon": horizon}))


def test_realized_volatility_is_the_root_of_the_baselines_variance() -> None:
    close = walk()
    own = target(make_rows(close), "realized-volatility", 5)
    np.testing.assert_allclose(own, 0.5 * np.log(realized_variance(close, 5)), rtol=1e-5)
    assert np.isnan(own[-5:]).all() and not np.isnan(own[:-5]).any()


def test_realized_volatility_of_days_that_all_double_is_a_logarithm() -> None:
    assert target(make_rows([1, 2, 4, 8]), "realized-volatility", 2)[0] == pytest.approx(
        np.log(np.log(2) * np.sqrt(252))
    )


def test_value_and_direction_lie_strictly_ahead() -> None:
    rows = make_rows([1, 3, 2, 2], 0)
    np.testing.assert_array_equal(target(rows, "value", 1), [3, 2, 2, np.nan])
    np.testing.assert_array_equal(target(rows, "direction", 1), [1, 0, 0, np.nan])


@pytest.mark.parametrize("name", ["realized-volatility", "value", "direction"])
def test_no_target_is_made_of_another_stretch(name: str) -> None:
    rows = make_rows([1, 2, 4, 3, 5, 6], [0, 0, 0, 1, 1, 1])
    assert np.isnan(target(rows, name, 2)).tolist() == [False, True, True, False, True, True]
