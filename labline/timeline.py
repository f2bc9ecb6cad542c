"""Accuracy from prediction to prediction, with what happened in between."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from labline.plots import COLOURS, INK, PALE

SMOOTHED_OVER = 100  # predictions
LINE_INCHES = 0.21  # of text under the axes


def accuracy_timeline(predictions: pd.DataFrame, events: Sequence[tuple[float, str]], baseline: float) -> Figure:
    """Accuracy over the last hundred labelled predictions of each version, one colour each, and numbered events.

    `predictions`: at (seconds since 1970), version, answer, label (None: not known yet), in the order of time.
    `events`: (at, text), listed under the axes. `baseline`: the first version's accuracy on its test set, 0 to 1. The
    axis counts predictions and not time: traffic comes in bursts, and what happens between two stands between them.
    """
    labelled = predictions[predictions["label"].notna()].sort_values("at", kind="stable").reset_index(drop=True)
    correct = (labelled["answer"] == labelled["label"]).astype(np.float64)
    figure = Figure(figsize=(9.5, 4.2 + LINE_INCHES * len(events)), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(baseline, color=PALE, linewidth=1.5, zorder=1, label="test set of the first version")
    for number, (version, rows) in enumerate(labelled.groupby("version", sort=False)):
        smoothed = correct[rows.index].rolling(SMOOTHED_OVER, min_periods=min(20, len(rows))).mean()
        axes.plot(rows.index, smoothed, color=COLOURS[number % len(COLOURS)], linewidth=1.8, label=f"version {version}")
    _number_events(figure, labelled["at"].to_numpy(dtype=np.float64), events)
    axes.set_title(f"Accuracy over the last {SMOOTHED_OVER} predictions", loc="left", color=INK, fontsize=11, pad=20)
    axes.set_xlabel(_told(events), loc="left", fontsize=8.5, color=INK)
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.margins(x=0.01)
    axes.grid(axis="y", color=PALE, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5, loc="lower left")
    return figure


def _number_events(figure: Figure, times: np.ndarray, events: Sequence[tuple[float, str]]) -> None:
    """A line where each event happened; those between the same two predictions share one."""
    axes = figure.axes[0]
    shared: dict[int, list[str]] = {}
    for number, (at, _) in enumerate(events, start=1):
        shared.setdefault(int(np.searchsorted(times, at)), []).append(str(number))
    for position, numbers in shared.items():
        axes.axvline(position - 0.5, color=INK, linewidth=0.9, linestyle=":")
        axes.text(
            position - 0.5,
            1.01,
            " ".join(numbers),
            transform=axes.get_xaxis_transform(),
            ha="center",
            fontsize=9,
            color=INK,
        )


def _told(events: Sequence[tuple[float, str]]) -> str:
    lines = (
        f"{number}  {datetime.fromtimestamp(at).astimezone():%H:%M:%S}  {text}"
        for number, (at, text) in enumerate(events, start=1)
    )
    return "\n".join(["predictions", *lines])
