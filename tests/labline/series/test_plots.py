"""The pictures of risk say what they show, and draw where something is unknown."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from labline.series import plots


def words(figure: Figure) -> set[str]:
    """Draw a figure without any warning, and return every text on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png", dpi=40)
    return {text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)}


def days(count: int) -> pd.DatetimeIndex:
    return pd.date_range("2014-01-02", periods=count, freq="B")


@pytest.mark.parametrize("count", [3, 1250])
def test_forecasts_are_drawn_against_what_came(count: int) -> None:
    realized = 0.02 * np.exp(np.random.default_rng(0).standard_normal(count))
    realized[-1] = np.nan
    forecasts = {name: np.full(count, 0.02) for name in ("network", "har", "garch", "ewma")}
    shown = words(plots.forecast_against_realized(days(count), realized, forecasts))
    assert {"realized", "network", "har", "garch", "ewma", "log(realized / network)"} <= shown


def test_a_forecast_that_begins_later_is_drawn_too() -> None:
    late = np.full(100, 0.02)
    late[:60] = np.nan
    assert "network" in words(plots.forecast_against_realized(days(100), np.full(100, 0.03), {"network": late}))


def test_violations_are_counted_in_the_title() -> None:
    returns, value = np.zeros(200), np.full(200, 0.02)
    returns[[20, 90, 150]] = -0.03
    value[[0, 150]] = np.nan
    shown = words(plots.value_at_risk_violations(days(200), returns, value))
    assert "Value at risk: 2 violations in 198 days, 2.0 expected" in shown
    assert {"violation", "−value at risk, 0.99"} <= shown


def test_a_calm_time_has_no_violations() -> None:
    shown = words(plots.value_at_risk_violations(days(50), np.zeros(50), np.full(50, 0.02), level=0.95))
    assert "Value at risk: 0 violations in 50 days, 2.5 expected" in shown
