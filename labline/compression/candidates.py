"""Candidates of a compression search: how each is built, judged, timed and put into the table."""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.export.latency import measure

logger = logging.getLogger(__name__)

LogitsFunction = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
Lost = Callable[[float, float], float]

FLOAT32 = "fp32"
# Speeds nearer to fp32 than this share are measured for longer: on a shared machine the medians of one short run differ
# by a few percent.
CLOSE = 0.15
ROUNDING = 1e-9  # exactly at the budget is inside it, whatever floating point says


@dataclass(frozen=True)
class Quality:
    """What a file came to on validation: its metrics and, of a classifier, whether each decision is right (bool, N)."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    right: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Loss:
    """How much the metric that suffers most loses against fp32, which one that is, and how surely.

    `error` is the standard error of a difference of two accuracies on the same samples, 0 where samples are not known
    one by one. Of several candidates near the budget the luckiest is inside it, so `most`, a standard error more than
    was seen, has to be (the one-standard-error rule of Breiman et al., Classification and Regression Trees, 1984).
    """

    lost: float
    of: str
    error: float

    @property
    def most(self) -> float:
        """What may well be lost on other samples."""
        return self.lost + self.error


Evaluate = Callable[[LogitsFunction], Quality]
Judge = Callable[[Path], Quality]


@dataclass(frozen=True)
class Tried:
    """A candidate before it is timed: its file and quality, or why there are none."""

    name: str
    path: Path | None = None
    quality: Quality = Quality()
    note: str = ""


def attempt(
    name: str,
    directory: Path,
    build: Callable[[Path], Path],
    judged: Judge,
    suffix: str = ".onnx",
) -> Tried:
    """Build `<name><suffix>` and judge it on validation; a failure becomes a note."""
    try:
        path = build(directory / f"{name}{suffix}")
        return Tried(name, path, judged(path))
    # Compressors raise anything on architectures they do not know; the fp32 model stands all the same.
    except Exception as error:
        logger.warning("compression pass %s failed", name, exc_info=True)
        return Tried(name, note=f"failed: {error}")


def most_lost(float32: Quality, found: Quality, lost: Lost = operator.sub) -> Loss:
    """What is lost against fp32, of the metric that suffers most; NaN without metrics."""
    losses = {name: lost(float32.metrics[name], value) for name, value in found.metrics.items()}
    worst = max(losses, key=lambda name: losses[name], default="")
    error = 0.0
    if float32.right is not None and found.right is not None:
        differences_N = float32.right.astype(np.float64) - found.right
        error = float(differences_N.std() / math.sqrt(len(differences_N)))
    return Loss(losses.get(worst, math.nan), worst, error)


def measured(
    candidates: list[Tried],
    samples: npt.NDArray[np.generic],
    max_metric_drop: float,
    seconds: float,
    lost: Lost = operator.sub,
) -> pd.DataFrame:
    """The table that `choose` reads, fp32 first: sizes, speeds on `samples`, and what each candidate lost.

    `lost` is of a metric's value with fp32 and with the candidate; by default the drop of one of which more is better.
    Those in the budget are measured for `seconds` each, twice that where speeds come out close to fp32's; the others
    for a third of it.
    """
    paths = {candidate.name: candidate.path for candidate in candidates if candidate.path}
    float32 = candidates[0].quality
    table = pd.DataFrame([_row(candidate, float32, lost) for candidate in candidates])
    table["bytes"] = [path.stat().st_size if path else math.nan for path in table["path"]]
    table["within_budget"] = table["lost"] + table["lost_error"] <= max_metric_drop + ROUNDING
    speed = measure(paths, samples, seconds / 3).set_index("name")
    contenders = {name: paths[name] for name in table.loc[table["within_budget"], "name"]}
    longer = 2 * seconds if _is_close(speed.loc[list(contenders)]) else seconds
    speed.update(measure(contenders, samples, longer).set_index("name"))
    return table.merge(speed.reset_index(), on="name", how="left")


def _row(candidate: Tried, float32: Quality, drop: Lost) -> dict[str, Any]:
    """A candidate's part of the table: its first metric, and what it lost of the metric that suffered most."""
    loss = most_lost(float32, candidate.quality, drop)
    figures = {
        "metric": next(iter(candidate.quality.metrics.values()), math.nan),
        "lost": loss.lost,
        "lost_error": loss.error,
        "lost_in": loss.of,
    }
    format = candidate.path.suffix.removeprefix(".") if candidate.path else ""
    return {"name": candidate.name, "format": format, "path": candidate.path, "note": candidate.note, **figures}


def _is_close(speed: pd.DataFrame) -> bool:
    """Is any compressed candidate about as fast as fp32 (the first row), for one image or in batches?"""
    figures = speed[["latency_ms_p50", "throughput"]].to_numpy(dtype=float)
    return bool((np.abs(figures[1:] / figures[0] - 1) < CLOSE).any())
