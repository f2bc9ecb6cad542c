"""TensorFlow Lite: the float32 file, INT8 versions and smaller networks, and which of them is released."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labline.compression.candidates import FLOAT32, Evaluate, Judge, Lost, Quality, Tried, attempt, measured
from labline.compression.choice import Search, choose
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
    smaller: Mapping[str, ImageClassifier] | None = None,
) -> Search:
    """Write `fp32.tflite` to `directory`, with the INT8 versions that are declared, and choose one of them.

    `smaller` are pruned or taught networks by their names, which compete as float32 files and, where static
    quantization is declared, as `<name>+int8`. Other arguments and the rule are those of `compression.search.search`;
    TensorFlow Lite files compete with each other alone.
    """
    samples = calibration_images[: settings.calibration_samples]

    def judged(path: Path) -> Quality:
        return evaluate(partial(tflite_logits, interpreter(path)))

    def exported(network: ImageClassifier, path: Path) -> Path:
        return export_tflite(network, path, image_size, channels)

    passes: dict[str, npt.NDArray[np.generic] | None] = {}
    if "int8-dynamic" in settings.passes:
        passes["int8-dynamic"] = None
    if "int8-static" in settings.passes:
        passes["int8-static"] = samples
    candidates = _versions(exported(model, directory / f"{FLOAT32}{SUFFIX}"), passes, judged)
    for name, network in (smaller or {}).items():
        candidates += _smaller_files(name, partial(exported, network), judged, samples, settings, directory)
    return choose(measured(candidates, samples, settings.max_metric_drop, seconds), settings)


def choose_tflite(
    float32: Path,
    passes: Mapping[str, npt.NDArray[np.generic] | None],
    judged: Judge,
    samples: npt.NDArray[np.generic],
    settings: Compression,
    unit: str = "images",
    lost: Lost = operator.sub,
    seconds: float = 1.5,
) -> Search:
    """Quantize a float32 TensorFlow Lite file, measure all and choose by the rule of `compression.choice.choose`.

    `passes` has for each int8 version its calibration samples, None for dynamic range; its file is `<name>.tflite`
    beside `float32`. `judged` gives the quality of a file on validation, `samples` are what it takes, to time it on;
    `unit` and `lost` as in `choose` and `measured`. A pass that fails becomes a note.
    """
    candidates = _versions(float32, passes, judged)
    return choose(measured(candidates, samples, settings.max_metric_drop, seconds, lost), settings, unit)


def _versions(float32: Path, passes: Mapping[str, npt.NDArray[np.generic] | None], judged: Judge) -> list[Tried]:
    candidates = [Tried(FLOAT32, float32, judged(float32))]
    for name, calibration in passes.items():
        quantized = partial(quantize_tflite, float32, calibration=calibration)
        candidates.append(attempt(name, float32.parent, quantized, judged, SUFFIX))
    return candidates


def _smaller_files(
    name: str,
    exported: Callable[[Path], Path],
    judged: Judge,
    samples: npt.NDArray[np.uint8],
    settings: Compression,
    directory: Path,
) -> list[Tried]:
    float32 = attempt(name, directory, exported, judged, SUFFIX)
    if float32.path is None or "int8-static" not in settings.passes:
        return [float32]
    quantized = partial(quantize_tflite, float32.path, calibration=samples)
    return [float32, attempt(f"{name}+int8", directory, quantized, judged, SUFFIX)]
