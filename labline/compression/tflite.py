"""TensorFlow Lite: the float32 file and its int8 version, and which of the two is released."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labline.compression.search import FLOAT32, Evaluate, Lost, Search, Tried, attempt, choose, measured
from labline.export.tflite import export_tflite, quantize_tflite
from labline.export.tflite_runtime import SUFFIX, interpreter, tflite_logits
from labline.models.classifier import ImageClassifier
from labline.usecase import Compression


def search_tflite(
    model: ImageClassifier,
    settings: Compression,
    image_size: int,
    channels: int,
    calibration_images: npt.NDArray[np.uint8],
    evaluate: Evaluate,
    directory: Path,
    seconds: float = 1.5,
) -> Search:
    """Write `fp32.tflite` to `directory`, `int8-static.tflite` where that pass is declared, and choose one of them.

    Arguments and rule are those of `compression.search.search`; TensorFlow Lite files compete with each other alone.
    """
    samples = calibration_images[: settings.calibration_samples]

    def judged(path: Path) -> Mapping[str, float]:
        return evaluate(partial(tflite_logits, interpreter(path)))

    float32 = export_tflite(model, directory / f"{FLOAT32}{SUFFIX}", image_size, channels)
    passes = {"int8-static": samples} if "int8-static" in settings.passes else {}
    return choose_tflite(float32, passes, judged, samples, settings, seconds=seconds)


def choose_tflite(
    float32: Path,
    passes: Mapping[str, npt.NDArray[np.generic] | None],
    judged: Callable[[Path], Mapping[str, float]],
    samples: npt.NDArray[np.generic],
    settings: Compression,
    unit: str = "images",
    lost: Lost = operator.sub,
    seconds: float = 1.5,
) -> Search:
    """Quantize a float32 TensorFlow Lite file, measure all and choose by the rule of `compression.search.choose`.

    `passes` has for each int8 version its calibration samples, None for dynamic range; its file is `<name>.tflite`
    beside `float32`. `judged` gives metrics of a file on validation, `samples` are what it takes, to time it on; `unit`
    and `lost` as in `choose` and `measured`. A pass that fails becomes a note.
    """
    candidates = [Tried(FLOAT32, float32, judged(float32))]
    for name, calibration in passes.items():
        quantized = partial(quantize_tflite, float32, calibration=calibration)
        candidates.append(attempt(name, float32.parent, quantized, judged, SUFFIX))
    return choose(measured(candidates, samples, settings.max_metric_drop, seconds, lost), settings, unit)
