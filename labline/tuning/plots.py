"""The pictures of a search, drawn as all others are: each function takes data and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from labline.plots import BLUE, GREEN, INK, ORANGE, PALE, RED, _dress, _figure, _legend
from labline.tuning.declaration import Dimension
from labline.tuning.study import Attempt, front

COLUMNS = 3


def history(attempts: Sequence[Attempt], metric: str, higher: bool, winner: int) -> Figure:
    """The metric of every trial in order, the best so far as a line, early ends as crosses."""
    figure = _figure(8.0, 4.2)
    axes = figure.add_subplot()
    complete = [attempt for attempt in attempts if attempt.state == "complete"]
    pruned = [attempt for attempt in attempts if attempt.state == "pruned"]
    failed = [attempt for attempt in attempts if attempt.state == "failed"]
    better = np.maximum.accumulate if higher else np.minimum.accumulate
    indices = [attempt.index for attempt in complete]
    if complete:
        axes.step(indices, better([a.metric for a in complete]), where="post", color=BLUE, label="best so far")
        axes.plot(indices, [a.metric for a in complete], "o", color=BLUE, markersize=5, label="complete")
        axes.axhline(complete[0].metric, color=PALE, linestyle="--", zorder=0, label="the declaration")
    if pruned:
        axes.plot([a.index for a in pruned], [a.metric for a in pruned], "x", color=ORANGE, label="ended early")
    for attempt in failed:
        axes.axvline(attempt.index, color=RED, alpha=0.3, linewidth=3)
    for attempt in complete:
        if attempt.index == winner:
            axes.plot(attempt.index, attempt.metric, "o", color=RED, markersize=9, label="winner", zorder=3)
    _dress(axes, "Trials", "trial", f"validation {metric.replace('_', ' ')}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def importances(shares: Mapping[str, float]) -> Figure:
    """How much of the metric's variance each setting explains (fANOVA, Hutter et al. 2014), the largest first."""
    names = sorted(shares, key=lambda name: shares[name])
    figure = _figure(7.0, 1.2 + 0.36 * len(names))
    axes = figure.add_subplot()
    axes.barh(names, [shares[name] for name in names], color=BLUE, height=0.7, zorder=2)
    _dress(axes, "What mattered", "share of the metric's variance among these trials", "")
    axes.grid(visible=False, axis="y")
    return figure


def slices(
    attempts: Sequence[Attempt], space: Mapping[str, Dimension], metric: str, declared: Mapping[str, Any], winner: int
) -> Figure:
    """The metric against each setting, a panel a setting; the declaration and the winner are marked."""
    rows = -(-len(space) // COLUMNS)
    figure = _figure(3.8 * min(COLUMNS, len(space)), 3.0 * rows)
    panels = figure.subplots(rows, min(COLUMNS, len(space)), squeeze=False, sharey=True).ravel()
    for axes, (key, dimension) in zip(panels, space.items(), strict=False):
        _slice(axes, attempts, key, dimension, declared, winner)
        _dress(axes, key, "", "")
    for axes in panels[len(space) :]:
        axes.axis("off")
    figure.supylabel(f"validation {metric.replace('_', ' ')}", color=INK, fontsize=10)
    return figure


def pareto(complete: Sequence[Attempt], metric: str, higher: bool, winner: int) -> Figure:
    """The metric against latency; the line joins the trials that no other one beats in both."""
    figure = _figure(7.0, 4.4)
    axes = figure.add_subplot()
    on_front = front(complete, higher)
    by_index = {attempt.index: attempt for attempt in complete}
    line = [by_index[index] for index in on_front]
    axes.plot(
        [a.latency for a in line], [a.metric for a in line], color=PALE, drawstyle="steps-post", label="not beaten"
    )
    for attempt in complete:
        colour = RED if attempt.index == winner else GREEN if attempt.index == 0 else BLUE
        size = 110 if attempt.index in (0, winner) else 45
        named = {winner: "winner", 0: "the declaration"} | ({0: "winner: the declaration"} if winner == 0 else {})
        axes.scatter(attempt.latency, attempt.metric, s=size, color=colour, label=named.get(attempt.index), zorder=3)
        axes.annotate(str(attempt.index), (attempt.latency, attempt.metric), (5, 5), textcoords="offset points", size=8)
    _dress(axes, "Quality against speed", "median latency of one sample, fp32 ONNX, ms", metric.replace("_", " "))
    _legend(axes, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def _slice(
    axes: Axes,
    attempts: Sequence[Attempt],
    key: str,
    dimension: Dimension,
    declared: Mapping[str, Any],
    winner: int,
) -> None:
    choices = None if dimension.choices is None else [str(choice) for choice in dimension.choices]

    def place(attempt: Attempt) -> float:
        value = attempt.settings.get(key, declared[key])
        return float(choices.index(str(value))) if choices is not None else float(value)

    for attempt in attempts:
        if attempt.state in ("complete", "pruned"):
            done = attempt.state == "complete"
            colour = RED if attempt.index == winner else GREEN if attempt.index == 0 else BLUE if done else ORANGE
            size = 80 if attempt.index in (0, winner) else 26
            axes.scatter(place(attempt), attempt.metric, marker="o" if done else "x", color=colour, s=size, zorder=2)
    if choices is not None:
        axes.set_xticks(range(len(choices)), choices)
        axes.set_xlim(-0.5, len(choices) - 0.5)
    elif dimension.low is not None and dimension.high is not None:
        axes.set_xscale("log" if dimension.log else "linear")
        margin = (dimension.high / dimension.low) ** 0.05 if dimension.log else 0.05 * (dimension.high - dimension.low)
        axes.set_xlim(
            dimension.low / margin if dimension.log else dimension.low - margin,
            dimension.high * margin if dimension.log else dimension.high + margin,
        )
        if dimension.log:
            axes.set_xticks([dimension.low, (dimension.low * dimension.high) ** 0.5, dimension.high])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
            axes.xaxis.set_minor_locator(NullLocator())
