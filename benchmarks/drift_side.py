"""One side of the drift benchmark, measured in a process of its own: `python -m benchmarks.drift_side NAME`.

Shape legend: N rows, F features.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

ROWS, FEATURES = 100_000, 50
MOVED = 5  # every fifth feature
MIB = 1024**2

Stage = Callable[[pd.DataFrame, pd.DataFrame], dict[str, Any]]


def samples(moved: bool, rows: int = ROWS, features: int = FEATURES) -> pd.DataFrame:
    """A reference, or a window in which every fifth feature moved by half a standard deviation; float64, N x F.

    Of ten features six are Gaussian, two lognormal, one is uniform and one a count.
    """
    generator = np.random.default_rng(int(moved))
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for feature in range(features):
        normal_N = generator.standard_normal(rows) + (0.5 if moved and feature % MOVED == 0 else 0.0)
        kind = feature % 10
        if kind in (6, 7):
            normal_N = np.exp(normal_N)
        elif kind == 8:
            normal_N = generator.random(rows)
        elif kind == 9:
            normal_N = generator.poisson(20, rows).astype(np.float64)
        columns[f"feature_{feature:02d}"] = normal_N
    return pd.DataFrame(columns)


def labline() -> Stage:
    """labline's stage: PSI, Kolmogorov–Smirnov with Holm's p-values and Wasserstein of every feature."""
    from labline.monitoring.input_drift import input_drift

    def stage(reference: pd.DataFrame, window: pd.DataFrame) -> dict[str, Any]:
        known, seen = ({str(name): frame[name].to_numpy() for name in frame} for frame in (reference, window))
        table = input_drift(known, seen).set_index("feature")
        return {"psi": table["psi"].to_dict(), "wasserstein": table["wasserstein"].to_dict()}

    return stage


def evidently(method: str) -> Stage:
    """Evidently's preset with one test of every feature: "wasserstein", its own choice for so many rows, or "psi"."""
    from evidently import DataDefinition, Dataset, Report  # type: ignore[import-untyped]
    from evidently.presets import DataDriftPreset  # type: ignore[import-untyped]

    def stage(reference: pd.DataFrame, window: pd.DataFrame) -> dict[str, Any]:
        described = DataDefinition(numerical_columns=list(reference))
        sets = [Dataset.from_pandas(frame, data_definition=described) for frame in (window, reference)]
        preset = DataDriftPreset() if method == "wasserstein" else DataDriftPreset(num_method=method)
        metrics = Report([preset]).run(*sets).dict()["metrics"]
        columns = [metric for metric in metrics if "column" in metric["config"]]
        return {method: {metric["config"]["column"]: float(metric["value"]) for metric in columns}}

    return stage


SIDES: dict[str, Callable[[], Stage]] = {
    "labline": labline,
    "evidently": lambda: evidently("wasserstein"),
    "evidently-psi": lambda: evidently("psi"),
}


def measured(stage: Stage, rows: int = ROWS) -> dict[str, Any]:
    """Wall and processor seconds of a stage on the samples, and the peak of this process's memory meanwhile.

    Imports and the samples are not counted; `growth_mib` is the peak less what was held before.
    """
    reference, window = samples(False, rows), samples(True, rows)
    stage(reference[:1000], window[:1000])  # what is imported on first use
    held = _begin_peak()
    started, used = time.perf_counter(), time.process_time()
    found = stage(reference, window)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
    peak = _memory("VmHWM")
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak, "growth_mib": peak - held, "found": found}


def _begin_peak() -> float:
    """Forget the peak so far; returns the memory held, in MiB. getrusage's peak would be the parent's."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(line: str) -> float:
    status = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
    return int(status[line].split()[0]) * 1024 / MIB


if __name__ == "__main__":
    print(json.dumps(measured(SIDES[sys.argv[1]]())))
