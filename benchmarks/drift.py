"""Seconds and memory of labline's drift stage beside Evidently's preset, 100,000 x 50 against as much.

labline computes three distances of every feature (PSI, Kolmogorov–Smirnov with adjusted p-values, Wasserstein),
Evidently the one of its method: its default for so many rows, Wasserstein, and PSI. Sides take turns, each turn in a
process of its own; counted is the stage alone, from a data frame to the figures, neither imports nor making the
samples nor any HTML. Evidently also bins every feature for its page, which cannot be turned off. Where both compute
the same distance the figures are compared. Linux only: the kernel is asked for the peak of memory.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
from importlib.metadata import version
from statistics import median
from typing import Any

from benchmarks.drift_side import FEATURES, ROWS, SIDES
from labline.errors import BadInput, LablineError

ROUNDS = 3

log = logging.getLogger(__name__)


def measure() -> dict[str, Any]:
    """All sides; `ratio` is labline's seconds over those of Evidently's default.

    Raises BadInput where Evidently is not installed, LablineError where a side fails or the two disagree.
    """
    if importlib.util.find_spec("evidently") is None:
        raise BadInput("Evidently is not installed; pip install 'labline[evidently]'")
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
    for round_number in range(ROUNDS):
        for name in SIDES:
            turns[name].append(_turn(name))
            log.info("round %d, %s: %.2f s", round_number + 1, name, turns[name][-1]["seconds"])
    ours, theirs, theirs_psi = (_median(turns[name]) for name in SIDES)
    difference = _largest_difference(turns["labline"][0]["found"], turns["evidently"][0]["found"])
    if difference > 1e-6:
        raise LablineError(f"the Wasserstein distances of labline and Evidently differ by {difference:.2g}")
    return {
        "name": "drift",
        "ratio": ours["seconds"] / theirs["seconds"],
        "ratio_psi": ours["seconds"] / theirs_psi["seconds"],
        "cpu_ratio": ours["cpu_seconds"] / theirs["cpu_seconds"],
        "memory_ratio": ours["peak_mib"] / theirs["peak_mib"],
        "ours": ours,
        "theirs": {"default": theirs, "psi": theirs_psi},
        "largest_difference": difference,
        "settings": {"rows": ROWS, "features": FEATURES, "rounds": ROUNDS},
        "versions": {"evidently": version("evidently")},
    }


def table(result: dict[str, Any]) -> str:
    """The result for a person to read."""
    sides = {
        "labline (PSI, KS, Wasserstein)": result["ours"],
        "Evidently (Wasserstein)": result["theirs"]["default"],
        "Evidently (PSI)": result["theirs"]["psi"],
    }
    lines = [f"{'side':32} seconds   lowest  highest  cpu s  peak MiB  growth MiB"]
    for name, side in sides.items():
        lines.append(
            f"{name:32} {side['seconds']:7.2f}  {side['lowest']:7.2f}  {side['highest']:7.2f} "
            f"{side['cpu_seconds']:6.2f} {side['peak_mib']:9.0f}  {side['growth_mib']:10.0f}"
        )
    lines.append(
        f"labline takes {result['ratio']:.3f} of the seconds of Evidently's default and {result['ratio_psi']:.3f} of "
        f"its PSI, and {result['memory_ratio']:.2f} of the memory; both find the same Wasserstein distances"
    )
    return "\n".join(lines)


def _turn(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.drift_side", name]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise LablineError(f"drift, side {name}: {ended.stderr.strip().splitlines()[-1:]}")
    turn: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return turn


def _median(turns: list[dict[str, Any]]) -> dict[str, float]:
    seconds = [turn["seconds"] for turn in turns]
    figures = {name: median(turn[name] for turn in turns) for name in turns[0] if name != "found"}
    return figures | {"lowest": min(seconds), "highest": max(seconds)}


def _largest_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    return float(max(abs(ours["wasserstein"][name] - value) for name, value in theirs["wasserstein"].items()))
