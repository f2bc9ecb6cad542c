"""From a model's outputs to what a client is told and what is remembered.

Shape legend: N samples, K classes, Q quantiles, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from labline.packaged_model import PackagedModel
from labline.series.answers import class_probabilities, quantile_mean
from serving.limits import Refused
from serving.series_bodies import declaration_of

KEPT = np.dtype("<f2")  # of an embedding

Tensor = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Said:
    """What a version says of one sample.

    `answer`, `confidence` and `outputs` as `labline.feedback.Prediction` has them; `shown` is the part of the answer
    that the client sees.
    """

    answer: str
    confidence: float
    outputs: list[float]
    shown: dict[str, Any]


def say(model: PackagedModel, answers: Tensor) -> list[Said]:
    """One Said for each of N samples; `answers` is the model's answer, float32 N x K, N x 2, N x Q or N x 1.

    Raises Refused (422) where an answer is not finite: inputs that large were never seen in training.
    """
    rows: list[list[float]] = answers.tolist()
    if not all(map(isfinite, map(sum, rows))):  # of a few float32, in a tenth of the time that NumPy takes
        raise Refused(422, "the model has no finite answer to this input: its values are far from what it learned from")
    if not model.labels:
        return [_forecast(model, row) for row in rows]
    if model.kind == "series":
        rows = class_probabilities(answers).tolist()
    return [_class(model.labels, row) for row in rows]


def embeddings(embedding_ND: Tensor | None, samples: int) -> Sequence[bytes]:
    """The embedding of each sample as it is kept: float16, little endian; empty where the version has none."""
    if embedding_ND is None:
        return [b""] * samples
    with np.errstate(over="ignore"):
        kept_ND = embedding_ND.astype(KEPT)
    return [kept_ND.tobytes()] if samples == 1 else [row.tobytes() for row in kept_ND]


def _class(labels: tuple[str, ...], row: list[float]) -> Said:
    confidence = max(row)
    label = labels[row.index(confidence)]
    shown = {"label": label, "confidence": confidence, "probabilities": dict(zip(labels, row, strict=True))}
    return Said(label, confidence, row, shown)


def _forecast(model: PackagedModel, row: list[float]) -> Said:
    """gaussian: mean and standard deviation; quantile: rising quantiles; point: the mean."""
    forecast: dict[str, Any] = {"mean": row[0]}
    if model.head == "gaussian":
        forecast["deviation"] = row[1]
    elif model.head == "quantile":
        levels = declaration_of(model.folder).model.quantiles
        forecast = {
            "mean": float(quantile_mean(levels, np.array([row]))[0]),
            "quantiles": dict(zip(map(str, levels), row, strict=True)),
        }
    return Said(repr(forecast["mean"]), math.nan, row, {"forecast": forecast})
