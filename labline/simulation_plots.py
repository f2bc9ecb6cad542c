"""Simulated years as a picture: what the verdict was on every day of each, and how soon a drift was called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from labline.monitoring.plots import VERDICT_COLOURS
from labline.monitoring.simulation import DAYS, Year
from labline.monitoring.verdict import Kind
from labline.plots import BLUE, INK, PALE

MOST_YEARS = 60
KINDS: tuple[Kind, ...] = get_args(Kind)
ALL_IS_WELL = "#EDF1F3"  # lighter than the green of "healthy", which most of the picture is


def simulated_years(years: Sequence[Year], per_day: int, title: str, within: int) -> Figure:
    """A row for each year (the first 60), a colour for each day's verdict, the drift's begin as a tick; beside it, of
    years with a drift, the share called by a number of predictions, `within` marked."""
    drifted = [year for year in years if year.onset is not None]
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=(3, 2)) if drifted else [figure.add_subplot()]
    _rows(axes[0], years[:MOST_YEARS], per_day)
    if drifted:
        _delays(axes[1], drifted, within)
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=11)
    return figure


def verdicts_by_day(year: Year) -> npt.NDArray[np.int64]:
    """The position among KINDS of each day's verdict, 365 of them."""
    found = np.zeros(DAYS, dtype=np.int64)
    for day, kind in year.verdicts:
        found[day:] = KINDS.index(kind)
    return found


def _rows(axes: Axes, years: Sequence[Year], per_day: int) -> None:
    colours = [ALL_IS_WELL, *(VERDICT_COLOURS[kind] for kind in KINDS[1:])]
    axes.imshow(
        np.stack([verdicts_by_day(year) for year in years]),
        aspect="auto",
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(KINDS) - 0.5,
        interpolation="nearest",
    )
    for row, year in enumerate(years):
        if year.onset is not None:
            axes.plot([year.onset / per_day - 0.5] * 2, [row - 0.5, row + 0.5], color=INK, linewidth=1.2, zorder=3)
        # A verdict of one day would be a line too thin to see.
        short = [(day, VERDICT_COLOURS[kind]) for day, kind in year.verdicts if kind in ("retrain", "rollback")]
        for day, colour in short:
            axes.scatter(day + 2.5, row, color=colour, s=14, marker="o", zorder=2, linewidths=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("day")
    axes.set_ylabel("simulated year")
    patches = [Patch(color=colour, label=kind) for colour, kind in zip(colours, KINDS, strict=True)]
    axes.legend(handles=patches, frameon=False, fontsize=8.5, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _delays(axes: Axes, drifted: Sequence[Year], within: int) -> None:
    delays = np.sort([year.delay for year in drifted if year.delay is not None])
    axes.step([0, *delays], np.arange(len(delays) + 1) / len(drifted), where="post", color=BLUE, linewidth=1.8)
    axes.axvline(within, color=PALE, linewidth=1.5, zorder=1)
    axes.annotate(f"{within}", (within, 0.02), fontsize=8.5, color=INK, xytext=(3, 0), textcoords="offset points")
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("predictions since the drift began")
    axes.set_ylabel("share of years in which it was called")
    axes.spines[["top", "right"]].set_visible(False)
