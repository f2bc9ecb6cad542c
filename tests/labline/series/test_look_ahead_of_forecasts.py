"""No forecast knows what comes after it: from prices to trained network, baselines and value at risk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from labline.errors import BadInput
from labline.models import build_series
from labline.series.assessment import against_rivals, rows_after_training
from labline.series.baselines import log_returns
from labline.series.dataset import windows
from labline.series.evaluation import value_at_risk
from labline.series.forecasting import ForecastSettings, fit_forecaster, predict
from labline.series.usecase import SeriesTraining
from tests.labline.series.market import FEATURES, make_prices, prepare, settings_for

BEFORE = make_prices(400)
TRAINED = 280  # days of the train split, embargo included
PRICES = ["open", "high", "low", "close"]
CHOICE = ForecastSettings()


def forecasts(prices: pd.DataFrame, folder: Path, name: str) -> pd.DataFrame:
    """Every model's forecasts and the network's value at risk, by day."""
    prices.to_parquet(folder / f"{name}.parquet")
    dataset = prepare(settings_for(folder / f"{name}.parquet"), folder / name)
    train, validation, test = (windows(dataset, split) for split in ("train", "validation", "test"))
    network = build_series("rnn", len(FEATURES.inputs), FEATURES.window, 2, width=0.25)
    fitted = fit_forecaster(network, train, validation, SeriesTraining(epochs=2, precision="float32"), CHOICE)
    later = rows_after_training(dataset)
    made = against_rivals(dataset, later, predict(fitted.model, later), test, CHOICE).forecasts
    table = {f"{name} {days}": vars(found)[days] for name, found in made.items() for days in vars(found)}
    returns = log_returns(dataset.manifest["close"].to_numpy())
    table["value at risk"] = value_at_risk(returns, made["network"].next_day_variance, window=20)
    return pd.DataFrame(table, index=pd.DatetimeIndex(dataset.manifest["timestamp"]))


def scaled_after(day: int, changes: list[tuple[int, float]]) -> pd.DataFrame:
    """Prices of some later days, and of all days from there on, multiplied."""
    after = BEFORE.copy()
    for place, factor in changes:
        after.loc[after.index > day + place, PRICES] *= factor
    return after


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(TRAINED, len(BEFORE) - 3),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.9, 1.02, 1.3])), min_size=1, max_size=5),
)
def test_no_price_after_a_day_changes_a_forecast_made_on_it(day: int, changes: list[tuple[int, float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            one = forecasts(BEFORE, Path(folder), "one")
            other = forecasts(scaled_after(day, changes), Path(folder), "other")
        except BadInput:
            assume(False)
    moment = BEFORE["date"].iloc[day].tz_localize("UTC")
    assert one.loc[:moment, "network horizon_variance"].notna().any()
    pd.testing.assert_frame_equal(one[:moment], other[:moment], check_exact=True)


def test_a_price_of_the_day_itself_changes_every_forecast() -> None:
    """The comparison looks at what it says."""
    day = 350
    moment = BEFORE["date"].iloc[day].tz_localize("UTC")
    with tempfile.TemporaryDirectory() as folder:
        one = forecasts(BEFORE, Path(folder), "one")
        after = scaled_after(day - 1, [(0, 1.02)])
        after.loc[day, "low"] *= 0.98  # HAR sees the range of a day
        other = forecasts(after, Path(folder), "other")
    assert (one.loc[moment] != other.loc[moment]).all()
    assert np.isfinite(one.loc[moment]).all()
