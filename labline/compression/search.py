"""The search: try the declared compressions, measure each as it would be served, choose one or keep float32."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from labline.compression.pruning import prune
from labline.compression.quantization import quantize
from labline.export.latency import measure
from labline.export.onnx import export_onnx
from labline.export.onnx_runtime import onnx_logits, session
from labline.models.classifier import ImageClassifier
from labline.usecase import Compression

logger = logging.getLogger(__name__)

LogitsFunction = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
Evaluate = Callable[[LogitsFunction], Mapping[str, float]]
Lost = Callable[[float, float], float]

FLOAT32 = "fp32"
# Speeds nearer to fp32 than this share are measured again for longer: on a shared machine the medians of one short
# run differ by a few percent.
CLOSE = 0.15
# A gain below this share is within that noise, and not worth a model that decides differently.
WORTHWHILE = 0.03

# The column each objective looks at, and the power that turns its ratio to fp32 into a gain (above 1 is better).
OBJECTIVES = {"latency": ("latency_ms_p50", -1), "throughput": ("throughput", 1), "size": ("bytes", -1)}


@dataclass(frozen=True)
class Search:
    """What was tried and what was chosen.

    `candidates` has one row a candidate, fp32 first: name, format (of the file: onnx or tflite), metric (the declared
    one, on validation, through the format's runtime), lost (the most that any metric lost against fp32), lost_in
    (which one), bytes, latency_ms_p50 and latency_ms_p99 (milliseconds, batch 1), throughput (images a second, batch
    64; one thread), path, within_budget, chosen, and note: why it could not be chosen, empty where it could. A pass
    that failed has its cause as note and no figures. `chosen` is a name among them; `reason` says why in plain words.
    """

    candidates: pd.DataFrame
    chosen: str
    reason: str


@dataclass(frozen=True)
class Tried:
    """A candidate before it is timed: its file and metrics, or why there are none."""

    name: str
    path: Path | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def search(
    model: ImageClassifier,
    settings: Compression,
    image_size: int,
    channels: int,
    calibration_images: npt.NDArray[np.uint8],
    evaluate: Evaluate,
    finetune: Callable[[ImageClassifier], ImageClassifier],
    directory: Path,
    seconds: float = 1.5,
) -> Search:
    """Export the model and its declared compressions to `directory`, measure all, choose by the declared objective.

    Candidates are fp32, pruned, int8-static and pruned+int8, as far as `settings.passes` names them; `choose` has the
    rule. `calibration_images` are uint8 NHWC validation samples, of which `settings.calibration_samples` are used;
    `evaluate` gives metrics on validation (more is better) of a function from images to logits, the declared one
    first; none of them may lose more than the budget, since one alone can be blind: ROC-AUC does not see decisions
    move. `finetune` trains a
    pruned model for a short while and returns it; `seconds` is the measuring time a candidate, spent twice more on
    those in the budget where speeds come out close. A pass that fails on this architecture becomes a note; only a
    failing fp32 export raises (see `export_onnx`).
    """
    samples = calibration_images[: settings.calibration_samples]

    def pruned(path: Path) -> Path:
        smaller = finetune(prune(model, settings.prune_ratio, torch.from_numpy(samples[:2])))
        return export_onnx(smaller, path, image_size, channels)

    def judged(path: Path) -> Mapping[str, float]:
        return evaluate(partial(onnx_logits, session(path)))

    float32 = export_onnx(model, directory / f"{FLOAT32}.onnx", image_size, channels)
    candidates = [Tried(FLOAT32, float32, judged(float32))]
    if "prune" in settings.passes:
        candidates.append(attempt("pruned", directory, pruned, judged))
    if "int8-static" in settings.passes:
        for source, path in [(candidate.name, candidate.path) for candidate in candidates if candidate.path]:
            name = "int8-static" if source == FLOAT32 else f"{source}+int8"
            quantized = partial(quantize, path, calibration_images=samples)
            candidates.append(attempt(name, directory, quantized, judged))
    return choose(measured(candidates, samples, settings.max_metric_drop, seconds), settings)


def choose(candidates: pd.DataFrame, settings: Compression, unit: str = "images") -> Search:
    """Fill `note` and `chosen` of a table with the other columns of `Search.candidates`, and give the reason.

    A candidate may be chosen when its metric is inside the budget, it is slower than fp32 neither for one image (p50)
    nor in batches, and it gains at least 3 % in what `settings.objective` asks for. The largest gain wins; where no
    candidate qualifies fp32 stays. `unit` is what samples are called.
    """
    rows = {str(row["name"]): row for row in candidates.to_dict("records")}
    float32 = rows.pop(FLOAT32)
    objections = {name: _objection(row, float32, settings, unit) for name, row in rows.items()}
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
        reason = f"{FLOAT32} is kept: {'; '.join(why)}."
    decided = candidates.assign(
        note=[objections.get(name, "") for name in candidates["name"]], chosen=candidates["name"] == chosen
    )
    return Search(decided, chosen, reason)


def attempt(
    name: str,
    directory: Path,
    build: Callable[[Path], Path],
    judged: Callable[[Path], Mapping[str, float]],
    suffix: str = ".onnx",
) -> Tried:
    """Build `<name><suffix>` and measure its metrics on validation; a failure becomes a note."""
    try:
        path = build(directory / f"{name}{suffix}")
        return Tried(name, path, judged(path))
    # Compressors raise anything on architectures they do not know; the fp32 model stands all the same.
    except Exception as error:
        logger.warning("compression pass %s failed", name, exc_info=True)
        return Tried(name, note=f"failed: {error}")


def measured(
    candidates: list[Tried],
    samples: npt.NDArray[np.generic],
    max_metric_drop: float,
    seconds: float,
    lost: Lost = operator.sub,
) -> pd.DataFrame:
    """The table that `choose` reads, fp32 first: sizes, speeds on `samples`, and what each candidate lost.

    `lost` is of a metric's value with fp32 and with the candidate; by default the drop of one of which more is better.
    """
    paths = {candidate.name: candidate.path for candidate in candidates if candidate.path}
    float32 = candidates[0].metrics
    table = pd.DataFrame([_row(candidate, float32, lost) for candidate in candidates])
    table["bytes"] = [path.stat().st_size if path else float("nan") for path in table["path"]]
    # Exactly at the budget is inside it, whatever rounding says.
    table["within_budget"] = table["lost"] <= max_metric_drop + 1e-9
    speed = measure(paths, samples, seconds).set_index("name")
    contenders = {name: paths[name] for name in table.loc[table["within_budget"], "name"]}
    if _is_close(speed.loc[list(contenders)]):
        speed.update(measure(contenders, samples, 2 * seconds).set_index("name"))
    return table.merge(speed.reset_index(), on="name", how="left")


def _row(candidate: Tried, float32: Mapping[str, float], drop: Lost) -> dict[str, Any]:
    """A candidate's part of the table: its first metric, and what it lost of the metric that suffered most."""
    nothing = float("nan")
    lost = {name: drop(float32[name], value) for name, value in candidate.metrics.items()}
    worst = max(lost, key=lambda name: lost[name], default="")
    metric = next(iter(candidate.metrics.values()), nothing)
    figures = {"metric": metric, "lost": lost.get(worst, nothing), "lost_in": worst}
    format = candidate.path.suffix.removeprefix(".") if candidate.path else ""
    return {"name": candidate.name, "format": format, "path": candidate.path, "note": candidate.note, **figures}


def _is_close(speed: pd.DataFrame) -> bool:
    """Is any compressed candidate about as fast as fp32 (the first row), for one image or in batches?"""
    figures = speed[["latency_ms_p50", "throughput"]].to_numpy(dtype=float)
    return bool((np.abs(figures[1:] / figures[0] - 1) < CLOSE).any())


def _gain(row: Mapping[Hashable, Any], float32: Mapping[Hashable, Any], settings: Compression) -> float:
    """How many times better than fp32 a candidate is at what the objective asks for."""
    figure, power = OBJECTIVES[settings.objective]
    return float((row[figure] / float32[figure]) ** power)


def _objection(row: Mapping[Hashable, Any], float32: Mapping[Hashable, Any], settings: Compression, unit: str) -> str:
    """Why a compressed candidate cannot be chosen; empty where it can."""
    if row["note"]:
        return str(row["note"])
    if not row["within_budget"]:
        return f"loses {row['lost']:.4f} of {row['lost_in']}, budget {settings.max_metric_drop:g}"
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
