"""The choice: which candidate is released, by the declared objective and budgets, and why."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from labline.compression.candidates import FLOAT32
from labline.usecase import Compression

# A gain below this share is within what two measurements of one file differ by, and not worth other decisions.
WORTHWHILE = 0.03

# The column each objective looks at, and the power that turns its ratio to fp32 into a gain (above 1 is better).
OBJECTIVES = {"latency": ("latency_ms_p50", -1), "throughput": ("throughput", 1), "size": ("bytes", -1)}

Row = Mapping[Hashable, Any]


@dataclass(frozen=True)
class Search:
    """What was tried and what was chosen.

    `candidates` has one row a candidate, fp32 first: name, format (of the file: onnx or tflite), metric (the declared
    one, on validation, through the format's runtime), lost (the most that any metric lost against fp32), lost_error
    (its standard error, 0 where that is not known), lost_in (which one), bytes, latency_ms_p50 and latency_ms_p99
    (milliseconds, batch 1), throughput (images a second, batch 64; one thread), path, within_budget (lost and
    lost_error together), pareto (no other loses no more, is no slower at p50 and no larger, and better in one), chosen,
    and note: why it could not be chosen, empty where it could. A pass that failed, or was not tried, has the cause as
    note and no figures. `chosen` is a name among them; `reason` says why in plain words.
    """

    candidates: pd.DataFrame
    chosen: str
    reason: str


def choose(candidates: pd.DataFrame, settings: Compression, unit: str = "images") -> Search:
    """Fill `note`, `pareto` and `chosen` of a table with the other columns of `Search.candidates`; give the reason.

    A candidate may be chosen when what it lost and the standard error of that are inside the budget together, and its
    size and p99 latency too where they are declared, it is slower than fp32 neither for one image (p50) nor in batches,
    and it gains at least 3 % in what `settings.objective` asks for. The largest gain wins; where no candidate qualifies
    fp32 stays. Where fp32 itself is too large or too slow for what is declared, whatever fits is better than it. `unit`
    is what samples are called.
    """
    rows = {str(row["name"]): row for row in candidates.to_dict("records")}
    float32 = rows.pop(FLOAT32)
    misfit = _excess(float32, settings)
    objections = {name: _objection(row, float32, settings, unit, misfit) for name, row in rows.items()}
    gains = {name: _gain(rows[name], float32, settings) for name, objection in objections.items() if not objection}
    if gains:
        chosen = max(gains, key=lambda name: gains[name])
        figure = OBJECTIVES[settings.objective][0]
        reason = (
            f"{chosen} is chosen: {figure} {rows[chosen][figure]:.4g} against {float32[figure]:.4g} of fp32, "
            f"{gains[chosen]:.2f} times better, at a validation metric of {rows[chosen]['metric']:.4f} "
            f"against {float32['metric']:.4f}."
        )
    else:
        chosen = FLOAT32
        why = [f"{name} {objection}" for name, objection in objections.items()] or ["no compression pass is declared"]
        reason = f"{FLOAT32} is kept{f', though it {misfit}' if misfit else ''}: {'; '.join(why)}."
    decided = candidates.assign(
        note=[objections.get(name, "") for name in candidates["name"]],
        pareto=pareto_front(candidates),
        chosen=candidates["name"] == chosen,
    )
    return Search(decided, chosen, reason)


def pareto_front(candidates: pd.DataFrame) -> list[bool]:
    """Which rows no other one beats in `lost`, `latency_ms_p50` and `bytes` together; never one without figures."""
    costs_NC = candidates[["lost", "latency_ms_p50", "bytes"]].to_numpy(dtype=float)
    known = ~np.isnan(costs_NC).any(axis=1)
    return [
        bool(alive and not any((others <= costs).all() and (others < costs).any() for others in costs_NC[known]))
        for alive, costs in zip(known, costs_NC, strict=True)
    ]


def _gain(row: Row, float32: Row, settings: Compression) -> float:
    """How many times better than fp32 a candidate is at what the objective asks for."""
    figure, power = OBJECTIVES[settings.objective]
    return float((row[figure] / float32[figure]) ** power)


def _excess(row: Row, settings: Compression) -> str:
    """Which declared cost a candidate exceeds; empty where none."""
    if settings.max_bytes is not None and row["bytes"] > settings.max_bytes:
        return f"has {row['bytes']:,.0f} bytes, at most {settings.max_bytes:,} are declared"
    slowest = settings.max_latency_ms_p99
    if slowest is not None and row["latency_ms_p99"] > slowest:
        return f"takes {row['latency_ms_p99']:.3g} ms at p99, at most {slowest:g} are declared"
    return ""


def _objection(row: Row, float32: Row, settings: Compression, unit: str, misfit: str) -> str:
    """Why a compressed candidate cannot be chosen; empty where it can."""
    if row["note"]:
        return str(row["note"])
    if not row["within_budget"]:
        give_or_take = f" (± {row['lost_error']:.4f})" if row["lost_error"] else ""
        return f"loses {row['lost']:.4f}{give_or_take} of {row['lost_in']}, budget {settings.max_metric_drop:g}"
    excess = _excess(row, settings)
    if excess or misfit:
        return excess
    if row["latency_ms_p50"] > float32["latency_ms_p50"]:
        return (
            f"is slower for one {unit[:-1]}: {row['latency_ms_p50']:.3g} ms against {float32['latency_ms_p50']:.3g} ms"
        )
    if row["throughput"] < float32["throughput"]:
        return f"is slower in batches: {row['throughput']:.0f} {unit}/s against {float32['throughput']:.0f}"
    if _gain(row, float32, settings) < 1 + WORTHWHILE:
        figure = OBJECTIVES[settings.objective][0]
        return f"gains too little: {figure} {row[figure]:.4g} against {float32[figure]:.4g}"
    return ""
