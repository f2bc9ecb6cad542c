"""How the stages of the data grow with it: near duplicates, expectations, drift and windows at 1, 4 and 16 times.

Nothing may grow faster than n log n. Measured is processor time, median of three rounds in turns; the exponent is the
slope of its logarithm over that of n. n log n itself has an exponent a little above 1, which is given beside it, and
memory that no longer fits the processor's caches adds to any. Near duplicates are of random parts of CIFAR-10, all of
it at 16 times; the expectations are the shipped suite on made-up manifests; drift is all distances of ten features,
window and reference growing together; windows are features, completeness and every window's gathering of made-up
daily prices. The picture goes to docs/images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.cifar10_files import decoded, part_of
from benchmarks.drift_side import samples
from benchmarks.manifests import made_up
from benchmarks.turns import summary, take_turns, timed
from benchmarks.validation import validate
from labline.data.duplicates import near_duplicates
from labline.monitoring.input_drift import input_drift
from labline.series.dataset import Windows, complete_windows
from labline.series.features import compute_features

MINUTES = 4.0
ROUNDS = 3
TIMES = (1, 4, 16)
SMALLEST = {"near duplicates": 3_750, "expectations": 62_500, "drift": 25_000, "windows": 40_000}
TOLERANCE = 0.15  # of the exponent: what caches and a machine's moods add
PICTURES = Path("docs/images")
INPUTS = ("log(garman-klass(1))", "log-return(close)", "rolling-std(log-return(close), 20)")
WINDOW = 20  # rows
GATHERED = 4096  # windows at a time


@dataclass(frozen=True)
class Growth:
    """Processor seconds by number of samples, the exponent fitted to them, and that of n log n between the ends."""

    sizes: list[int]
    cpu_seconds: list[float]
    exponent: float
    n_log_n: float

    @property
    def holds(self) -> bool:
        """Whether it grows at most as n log n, within the tolerance."""
        return self.exponent <= self.n_log_n + TOLERANCE


def measure(smallest: Mapping[str, int] = SMALLEST, rounds: int = ROUNDS) -> dict[str, Any]:
    """Every stage at every size; `ratio` is the largest exponent over that of n log n.

    Raises BadInput without CIFAR-10's archive.
    """
    with tempfile.TemporaryDirectory(prefix="labline-benchmark-") as directory:
        dataset = decoded(Path(directory))
        makers: dict[str, Callable[[int], Callable[[], Any]]] = {
            "near duplicates": lambda size: partial(near_duplicates, part_of(dataset, size)),
            "expectations": lambda size: partial(validate, made_up(size)),
            "drift": _drift,
            "windows": _windows,
        }
        found = {name: _growth(makers[name], name, size, rounds) for name, size in smallest.items()}
    _plot(found)
    return {
        "name": "scaling",
        "ratio": max(growth.exponent / growth.n_log_n for growth in found.values()),
        "within_n_log_n": all(growth.holds for growth in found.values()),
        "ours": {name: {**vars(growth), "holds": growth.holds} for name, growth in found.items()},
        "theirs": {name: {"exponent": growth.n_log_n} for name, growth in found.items()},
        "settings": {"times": list(TIMES), "rounds": rounds},
    }


def table(result: dict[str, Any]) -> str:
    """The result for a person to read."""
    lines = [f"{'stage':16} {'n':>8} {'1 x':>8} {'4 x':>8} {'16 x':>8}  exponent  n log n"]
    for name, growth in result["ours"].items():
        seconds = " ".join(f"{value:8.3f}" for value in growth["cpu_seconds"])
        lines.append(
            f"{name:16} {growth['sizes'][0]:8,} {seconds}  {growth['exponent']:8.2f}  {growth['n_log_n']:7.2f}"
            + ("" if growth["holds"] else "  faster than n log n")
        )
    holds = "nothing grows" if result["within_n_log_n"] else "not everything stays below what grows"
    lines.append(f"processor seconds; {holds} faster than n log n, within {TOLERANCE} of the exponent")
    return "\n".join(lines)


def _growth(make: Callable[[int], Callable[[], Any]], name: str, smallest: int, rounds: int) -> Growth:
    sizes = [smallest * times for times in TIMES]
    works = {f"{name}, {size:,}": make(size) for size in sizes}
    works[f"{name}, {sizes[0]:,}"]()  # what is imported on first use
    turns = take_turns({label: partial(timed, work) for label, work in works.items()}, rounds)
    seconds = [float(summary(turn)["cpu_seconds"]) for turn in turns.values()]
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    n_log_n = 1 + float(np.log(np.log(sizes[-1]) / np.log(sizes[0])) / np.log(sizes[-1] / sizes[0]))
    return Growth(sizes, seconds, exponent, n_log_n)


def _drift(size: int) -> Callable[[], Any]:
    reference, window = (
        {str(name): column.to_numpy() for name, column in samples(moved, size, 10).items()} for moved in (False, True)
    )
    return lambda: input_drift(reference, window)


def _windows(size: int) -> Callable[[], Any]:
    """Prices of a random walk in stretches of a thousand days."""
    generator = np.random.default_rng(0)
    close_N = 100 * np.exp(np.cumsum(generator.normal(0, 0.01, size)))
    spread_N = 1 + np.abs(generator.normal(0, 0.005, size))
    prices = {"open": close_N, "high": close_N * spread_N, "low": close_N / spread_N, "close": close_N}
    rows = pd.DataFrame(prices).assign(stretch=np.arange(size) // 1000)

    def work() -> None:
        features_NF = compute_features(rows, INPUTS)
        complete_N = complete_windows(features_NF, rows["stretch"].to_numpy(), WINDOW)
        windows = Windows(features_NF, features_NF[:, 0], np.flatnonzero(complete_N), WINDOW)
        for start in range(0, len(windows), GATHERED):
            windows.batch(np.arange(start, min(start + GATHERED, len(windows))))

    return work


def _plot(found: Mapping[str, Growth]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, growth in found.items():
        (line,) = axes.loglog(growth.sizes, growth.cpu_seconds, "o-", label=f"{name}: n^{growth.exponent:.2f}")
        sizes_N = np.geomspace(growth.sizes[0], growth.sizes[-1], 20)
        reference_N = sizes_N * np.log(sizes_N)
        axes.loglog(sizes_N, growth.cpu_seconds[0] * reference_N / reference_N[0], ":", color=line.get_color())
    axes.set_xlabel("samples n")
    axes.set_ylabel("processor seconds")
    axes.set_title("Growth of the data stages (dotted: n log n)")
    axes.legend()
    PICTURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURES / "scaling.png", dpi=120)
