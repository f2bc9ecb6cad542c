"""Every picture labline logs, drawn alike: each function takes data and returns a Figure, and touches no global state.

Colours are Okabe & Ito's (2008, "Color Universal Design"), told apart by colour-blind readers too.
Figures are matplotlib's own objects without pyplot, which keeps them safe in threads and free of a display.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn import metrics as sklearn_metrics

from labline.data.dataset import SPLITS
from labline.evaluation import CALIBRATION_BINS, calibration_error, confidence_bins

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]
Images = npt.NDArray[np.uint8]

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
MARKERS = ("o", "s", "D", "^", "v", "P")
LINE_STYLES = ("-", "--", ":")
INK, PALE = "#333333", "#D9D9D9"
MOST_NAMED_CURVES = 12
TITLE_CHARACTERS = 30  # of 8 points above an image 2.1 inches wide
CORNER = 0.2  # the side of the ROC square that is shown where every curve lies close to its corner
MOST_CELLS_WITH_TEXT = 20


def confusion_matrix(confusion_KK: npt.NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Counts of true class (rows) against predicted class (columns), shaded by the share of the true class."""
    classes = len(labels)
    side = float(np.clip(2.8 + 0.55 * classes, 4.5, 14))
    figure = _figure(side + 1.2, side)
    axes = figure.add_subplot()
    shares_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1)
    accuracy = confusion_KK.trace() / max(confusion_KK.sum(), 1)
    _dress(axes, f"Confusion matrix: {accuracy:.1%} of {confusion_KK.sum():,} right", "predicted", "true", grid=False)
    turned = max(map(len, labels)) * classes > 40
    axes.set_xticks(range(classes), labels, rotation=45 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(range(classes), labels)
    axes.set_xticks(np.arange(1, classes) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, classes) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    if classes <= MOST_CELLS_WITH_TEXT:
        for (true, predicted), count in np.ndenumerate(confusion_KK):
            colour = "white" if shares_KK[true, predicted] > 0.5 else INK if count else PALE
            axes.text(predicted, true, f"{count:,}", ha="center", va="center", fontsize=8.5, color=colour)
    bar = figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1, 0))
    bar.set_label("share of the true class", color=INK)
    bar.ax.tick_params(colors=INK, labelsize=9, length=0)
    bar.outline.set_visible(False)
    return figure


def roc_curves(probabilities_NK: Floats, targets_N: Integers, labels: Sequence[str]) -> Figure:
    """One-vs-rest ROC curves, the lowest areas named first; with two classes, the curve of the last.

    Only the twelve lowest curves carry a name and a colour where there are more classes. Classes without both
    positive and negative samples have no curve. Where all areas are above 0.96 only the upper left corner is shown.
    """
    figure = _figure(7.6 if len(labels) > 2 else 6.0, 5.2)
    axes = figure.add_subplot()
    ranked = range(len(labels)) if len(labels) > 2 else [len(labels) - 1]
    drawn = [k for k in ranked if 0 < np.count_nonzero(targets_N == k) < len(targets_N)]
    areas = {k: float(sklearn_metrics.roc_auc_score(targets_N == k, probabilities_NK[:, k])) for k in drawn}
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, zorder=1)
    for position, k in enumerate(sorted(areas, key=lambda k: areas[k])):
        false_positives, true_positives, _ = sklearn_metrics.roc_curve(targets_N == k, probabilities_NK[:, k])
        named = position < MOST_NAMED_CURVES
        axes.plot(
            false_positives,
            true_positives,
            color=COLOURS[position % len(COLOURS)] if named else PALE,
            linestyle=LINE_STYLES[position // len(COLOURS) % len(LINE_STYLES)] if named else "-",
            linewidth=1.8 if named else 0.8,
            label=f"{labels[k]}  {areas[k]:.3f}" if named else None,
        )
    title = "ROC curves, one class against the rest" if len(labels) > 2 else f"ROC curve of {labels[-1]}"
    side = CORNER if areas and min(areas.values()) > 1 - CORNER**2 else 1.0
    _dress(axes, title + (" (upper left corner)" if side < 1 else ""), "false positive rate", "true positive rate")
    axes.set(xlim=(-0.01 * side, side), ylim=(1 - side, 1 + 0.01 * side), aspect="equal")
    if areas and len(labels) > 2:
        _legend(axes, title="area under the curve", loc="upper left", bbox_to_anchor=(1.01, 1))
    elif areas:
        _legend(axes, title="area under the curve", loc="lower right")
    return figure


def reliability_diagram(probabilities_NK: Floats, targets_N: Integers) -> Figure:
    """Accuracy against confidence in 15 bins, over how many samples each bin holds.

    Bars below the diagonal are overconfident, above it underconfident. DeGroot & Fienberg 1983, "The
    Comparison and Evaluation of Forecasters"; the error in the title is `evaluation.calibration_error`.
    """
    bins_N = confidence_bins(probabilities_NK)
    counts = np.bincount(bins_N)
    right = np.bincount(bins_N, weights=probabilities_NK.argmax(axis=1) == targets_N)
    claimed = np.bincount(bins_N, weights=probabilities_NK.max(axis=1))
    used = np.flatnonzero(counts)
    counts, accuracy, confidence = counts[used], right[used] / counts[used], claimed[used] / counts[used]
    bars: dict[str, Any] = {"x": (used + 0.5) / CALIBRATION_BINS, "width": 0.92 / CALIBRATION_BINS, "zorder": 2}
    over, under = np.maximum(confidence - accuracy, 0), np.maximum(accuracy - confidence, 0)

    figure = _figure(5.6, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(height=accuracy - under, color=BLUE, label="accuracy", **bars)
    upper.bar(height=under, bottom=confidence, color=SKY, label="accuracy above confidence", **bars)
    upper.bar(height=over, bottom=accuracy, color="#F6D5BF", label="confidence above accuracy", **bars)
    upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="perfectly calibrated", zorder=4)
    error = calibration_error(probabilities_NK, targets_N)
    _dress(upper, f"Reliability: calibration error {error:.3f}", "", "accuracy")
    upper.set(xlim=(0, 1), ylim=(0, 1.02))
    _legend(upper, loc="upper left")
    lower.bar(height=counts / counts.sum(), color=BLUE, **bars)
    _dress(lower, "", "confidence of the prediction", "samples")
    lower.yaxis.set_major_formatter(PercentFormatter(1, 0))
    return figure


def learning_curves(history: pd.DataFrame, metric: str = "accuracy", loss: bool = False) -> Figure:
    """Losses, a validation metric and learning rate over the epochs; the best epoch is marked.

    `history` has epoch, train_loss, validation_loss, learning_rate and validation_<metric>: a share (0 to 1), of which
    more is better, or a `loss`, of which less is.
    """
    name = f"validation_{metric}"
    figure = _figure(11.5, 3.8)
    losses, quality, rate = figure.subplots(1, 3)
    epochs = history["epoch"]
    marker = "o" if len(history) <= 12 else ""
    losses.plot(epochs, history["train_loss"], color=ORANGE, marker=marker, markersize=4, label="train")
    losses.plot(epochs, history["validation_loss"], color=BLUE, marker=marker, markersize=4, label="validation")
    quality.plot(epochs, history[name], color=BLUE, marker=marker, markersize=4)
    rate.plot(epochs, history["learning_rate"], color=GREEN, marker=marker, markersize=4)
    _dress(losses, "Loss", "epoch", "")
    _dress(quality, f"Validation {metric.replace('_', ' ')}", "epoch", "")
    _dress(rate, "Learning rate", "epoch", "")
    _legend(losses, loc="upper right")
    if not loss:
        quality.yaxis.set_major_formatter(PercentFormatter(1))
    rate.yaxis.set_major_formatter("{x:g}")
    if history[name].notna().any():
        best = history.loc[history[name].idxmin() if loss else history[name].idxmax()]
        figured = f"{best[name]:.4g}" if loss else f"{best[name]:.2%}"
        quality.plot(best["epoch"], best[name], "o", color=RED, markersize=7, zorder=3)
        quality.set_title(f"best {figured}, epoch {best['epoch']:.0f}", loc="right", fontsize=9, color=RED)
    for axes in (losses, quality, rate):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    return figure


def worst_mistakes(images_NHWC: Images, titles: Sequence[str]) -> Figure:
    """The images of the worst mistakes in reading order, each under its title ("scratches → patches (75%)")."""
    count = len(images_NHWC)
    columns = min(5, max(count, 1))
    rows = max(1, -(-count // columns))
    figure = _figure(max(2.1 * columns, 4), 2.3 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, image_HWC, title in zip(grid, images_NHWC, titles, strict=False):
        _show(axes, image_HWC)
        axes.set_title(_wrapped(title), fontsize=8, color=INK)
    for axes in grid[count:]:
        axes.axis("off")
    figure.suptitle("Worst mistakes" if count else "No mistakes", x=0.01, ha="left", fontweight="bold", color=INK)
    return figure


def contact_sheet(before_NHWC: Images, after_NHWC: Images) -> Figure:
    """Images before and after augmentation, one above the other, eight pairs a row."""
    count = len(before_NHWC)
    columns = min(8, max(count, 1))
    strips = max(1, -(-count // columns))
    figure = _figure(1.25 * columns + 0.9, 2.6 * strips + 0.5)
    for part, strip in enumerate(figure.subfigures(strips, 1, squeeze=False).ravel()):
        grid = strip.subplots(2, columns, squeeze=False)
        for row, name, images_NHWC in ((0, "before", before_NHWC), (1, "after", after_NHWC)):
            grid[row, 0].set_ylabel(name, color=INK, fontsize=9)
            for column, axes in enumerate(grid[row]):
                position = part * columns + column
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if position < count:
                    _show(axes, images_NHWC[position])
    figure.suptitle("Augmentation", x=0.01, ha="left", fontweight="bold", color=INK)
    return figure


def pareto(candidates: pd.DataFrame, metric: str = "accuracy", unit: str = "image", loss: bool = False) -> Figure:
    """Quality against latency, where markers grow with the file, and against size; a line joins what no other beats.

    `candidates` has name, metric (0 to 1, or a loss, of which less is better), bytes, latency_ms_p50 and chosen
    (bool); `metric` names the figure, `unit` what latency is of.
    A candidate without figures (NaN: its pass failed) is left out.
    """
    candidates = candidates.dropna(subset=["metric", "bytes", "latency_ms_p50"])
    figure = _figure(11.5, 4.2)
    left, right = figure.subplots(1, 2, sharey=True)
    quality = candidates["metric"].to_numpy(dtype=np.float64)
    megabytes = candidates["bytes"].to_numpy(dtype=np.float64) / 1e6
    areas = 40 + 260 * megabytes / max(megabytes.max(), np.finfo(np.float64).tiny)
    for axes, cost, label, area in (
        (left, candidates["latency_ms_p50"].to_numpy(dtype=np.float64), f"median latency of one {unit}, ms", areas),
        (right, megabytes, "size, MB", np.full(len(megabytes), 80.0)),
    ):
        front = _front(cost, -quality if loss else quality)
        axes.plot(cost[front], quality[front], color=PALE, drawstyle="steps-post", zorder=1, label="not beaten")
        for position, (name, chosen) in enumerate(zip(candidates["name"], candidates["chosen"], strict=True)):
            axes.scatter(
                cost[position],
                quality[position],
                s=area[position],
                marker=MARKERS[(position + position // len(COLOURS)) % len(MARKERS)],
                color=COLOURS[position % len(COLOURS)],
                edgecolor=INK if chosen else "white",
                linewidth=2 if chosen else 0.8,
                label=f"{name} (chosen)" if chosen else name,
                zorder=3,
            )
        _dress(axes, "", label, "")
        axes.set_xlim(0, 1.15 * max(cost.max(), np.finfo(np.float64).tiny))
    pad = max(0.2 * float(np.ptp(quality)), 0.005)
    left.set_ylim(quality.min() - pad, quality.max() + pad)
    if not loss:
        left.yaxis.set_major_formatter(PercentFormatter(1))
    left.set_ylabel(metric.replace("_", " "), color=INK)
    left.set_title("Compression candidates", loc="left", fontsize=11, fontweight="bold", color=INK)
    left.set_title("larger marker, larger file", loc="right", fontsize=9, color=INK)
    _legend(right, loc="upper left", bbox_to_anchor=(1.01, 1), labelspacing=0.9)
    return figure


def class_balance(manifest: pd.DataFrame) -> Figure:
    """How many samples of each class every split holds, the largest class first."""
    counts = pd.crosstab(manifest["label"], manifest["split"])
    counts = counts.reindex(columns=[split for split in SPLITS if split in counts])
    counts = counts.loc[counts.sum(axis=1).sort_values().index]
    figure = _figure(8, max(2.6, 1.4 + 0.34 * len(counts)))
    axes = figure.add_subplot()
    left = np.zeros(len(counts))
    for split, colour in zip(counts.columns, (BLUE, ORANGE, GREEN), strict=False):
        axes.barh(counts.index.astype(str), counts[split], left=left, color=colour, height=0.72, label=split, zorder=2)
        left += counts[split].to_numpy()
    for position, total in enumerate(left):
        axes.annotate(
            f"{total:,.0f}",
            (total, position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    _dress(axes, f"Class balance of {int(left.sum()):,} samples", "samples", "")
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.1)
    _legend(axes, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=144, layout="constrained", facecolor="white")


def _dress(axes: Axes, title: str, x_label: str, y_label: str, grid: bool = True) -> None:
    """The common look: bold title at the left, quiet frame, pale grid behind the data."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["top", "right"] if grid else ["top", "right", "left", "bottom"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color=PALE, linewidth=0.6)


def _legend(axes: Axes, **place: Any) -> None:
    legend = axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=9, labelcolor=INK, **place)
    legend.get_title().set(fontsize=9, color=INK)


def _show(axes: Axes, image_HWC: Images) -> None:
    """One image without ticks; grey where it has a single channel, its pixels kept sharp."""
    grey = image_HWC.shape[-1] == 1
    axes.imshow(image_HWC[..., 0] if grey else image_HWC, cmap="gray" if grey else None, vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _wrapped(title: str) -> str:
    """A title broken into lines that fit above one image; matplotlib's own wrapping knows only the figure's edge."""
    return "\n".join(wrapped for line in title.splitlines() for wrapped in textwrap.wrap(line, TITLE_CHARACTERS))


def _front(costs: Floats, values: Floats) -> list[int]:
    """Positions, cheapest first, of the candidates that are better than every cheaper one."""
    front: list[int] = []
    for position in np.lexsort((-values, costs)):
        if not front or values[position] > values[front[-1]]:
            front.append(int(position))
    return front
