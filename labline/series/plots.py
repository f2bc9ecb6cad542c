"""Pictures of risk forecasts, in the look of `labline.plots`: each takes arrays over days and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from labline.plots import BLUE, COLOURS, INK, PALE, RED, _dress, _figure, _legend

Floats = npt.NDArray[np.floating]

REALIZED = "#9A9A9A"  # behind the forecasts, and no colour of theirs


def forecast_against_realized(timestamps: pd.Index, realized_N: Floats, forecasts: Mapping[str, Floats]) -> Figure:
    """Forecast variances over the days of their forecast, against what the horizon then showed, as volatilities.

    `timestamps` are N days; `realized_N` and each forecast are annualized variances, NaN where unknown. The first of
    `forecasts` (one at least) is drawn on top; below it, how far its log volatility lay from the realized one.
    """
    figure = _figure(11, 6.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.fill_between(timestamps, np.sqrt(realized_N), color=PALE, linewidth=0, zorder=1)
    upper.plot(timestamps, np.sqrt(realized_N), color=REALIZED, linewidth=0.7, label="realized", zorder=2)
    for position, (name, variance_N) in enumerate(forecasts.items()):
        upper.plot(
            timestamps,
            np.sqrt(variance_N),
            color=COLOURS[position % len(COLOURS)],
            linewidth=1.5 if position == 0 else 0.9,
            label=name,
            zorder=3 + len(forecasts) - position,
        )
    _dress(upper, "Volatility forecast against realized", "", "annualized volatility, log scale")
    upper.set_yscale("log")
    upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    upper.yaxis.set_major_formatter(lambda volatility, _: f"{100 * volatility:.3g}%")
    upper.yaxis.set_minor_formatter(NullFormatter())
    _legend(upper, loc="upper left", bbox_to_anchor=(1.01, 1))
    name, variance_N = next(iter(forecasts.items()))
    lower.plot(timestamps, np.log(realized_N / variance_N) / 2, color=BLUE, linewidth=0.7)
    lower.axhline(0, color=INK, linewidth=0.8)
    _dress(lower, "", "", f"log(realized / {name})")
    lower.margins(x=0.01)
    return figure


def value_at_risk_violations(
    timestamps: pd.Index, returns_N: Floats, value_at_risk_N: Floats, level: float = 0.99
) -> Figure:
    """Daily log returns over the loss that value at risk allowed for that day, and the days that exceeded it.

    `timestamps`, `returns_N` and `value_at_risk_N` are of the same N days: the return of a day beside the value
    (positive) stated at the close before. Days where either is NaN are not counted.
    """
    figure = _figure(11, 4.2)
    axes = figure.add_subplot()
    stated = np.isfinite(returns_N) & np.isfinite(value_at_risk_N)
    exceeded = stated & (returns_N < -value_at_risk_N)
    axes.vlines(timestamps, 0, returns_N, color=REALIZED, linewidth=0.7, label="daily log return", zorder=2)
    axes.plot(timestamps, -value_at_risk_N, color=BLUE, linewidth=1.3, label=f"−value at risk, {level:.4g}", zorder=3)
    axes.scatter(timestamps[exceeded], returns_N[exceeded], color=RED, s=22, label="violation", zorder=4)
    days, found = int(stated.sum()), int(exceeded.sum())
    title = f"Value at risk: {found:,} violations in {days:,} days, {(1 - level) * days:.1f} expected"
    _dress(axes, title, "", "log return")
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    _legend(axes, loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.margins(x=0.01)
    return figure
