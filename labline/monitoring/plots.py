"""Monitoring as pictures: performance over time with what happened, and drift per feature over time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from labline.plots import BLUE, GREEN, INK, ORANGE, PALE, PURPLE, RED

DAY = 86_400  # seconds
VERDICT_COLOURS = {"healthy": GREEN, "watch": ORANGE, "retrain": RED, "rollback": PURPLE}


def performance_over_time(
    history: pd.DataFrame, baseline: float, metric: str = "accuracy", events: Sequence[tuple[float, str]] = ()
) -> Figure:
    """Measured and estimated performance with their 95 % intervals, the baseline, verdicts as dots, events as lines.

    `history` has one row a window, oldest first: at (seconds since 1970), value, low, high (measured), estimate,
    estimate_low, estimate_high, verdict; NaN where there is none. `events` are (at, text).
    """
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    times = history["at"].to_numpy(dtype=np.float64) / DAY
    axes.axhline(baseline, color=PALE, linewidth=1.5, zorder=1, label="baseline")
    series = (
        ("estimate", "estimate_low", "estimate_high", ORANGE, "estimated"),
        ("value", "low", "high", BLUE, "measured"),
    )
    for value, low, high, colour, name in series:
        if history[value].notna().any():
            axes.fill_between(times, history[low], history[high], color=colour, alpha=0.15, linewidth=0)
            axes.plot(times, history[value], color=colour, linewidth=1.8, marker=".", label=name)
    bottom = float(np.nanmin(history[["value", "low", "estimate", "estimate_low"]].to_numpy(dtype=np.float64)))
    for kind, colour in VERDICT_COLOURS.items():
        told = times[(history["verdict"] == kind).to_numpy()]
        if len(told):
            axes.scatter(told, [bottom] * len(told), color=colour, s=26, label=kind, zorder=3, clip_on=False)
    for at, text in events:
        axes.axvline(at / DAY, color=INK, linewidth=0.9, linestyle=":")
        axes.annotate(
            text,
            (at / DAY, 1),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="top",
            fontsize=8,
            color=INK,
        )
    axes.set_title(f"{metric} over time", loc="left", color=INK, fontsize=11)
    axes.set_ylabel(metric)
    axes.xaxis_date(UTC)  # days since 1970 are matplotlib's own numbers for dates
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(DateFormatter("%Y-%m-%d\n%H:%M", UTC))  # type: ignore[no-untyped-call]
    axes.legend(frameon=False, fontsize=8.5, ncols=7, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def drift_heat_map(history: pd.DataFrame, most: float = 0.5) -> Figure:
    """The population stability index of each feature (rows, the most drifted first) in each window (columns).

    `history` has at (seconds since 1970), feature and psi. Colours end at `most`; 0.25 is a large shift already.
    """
    table = history.pivot_table(index="feature", columns="at", values="psi")
    table = table.loc[table.max(axis=1).sort_values(ascending=False, kind="stable").index]
    figure = Figure(figsize=(9.0, 1.6 + 0.32 * len(table)), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(table.to_numpy(), cmap="OrRd", vmin=0, vmax=most, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(table)), table.index)
    shown = np.unique(np.linspace(0, table.shape[1] - 1, min(6, table.shape[1])).round().astype(int))
    named = [f"{datetime.fromtimestamp(float(table.columns[column]), UTC):%Y-%m-%d %H:%M}" for column in shown]
    axes.set_xticks(shown, named, fontsize=8)
    axes.set_title("Drift of each feature (population stability index)", loc="left", color=INK, fontsize=11)
    figure.colorbar(picture, ax=axes, fraction=0.03, pad=0.02)
    return figure
