"""The INT8 versions of one network, the cheapest first: the next is tried only where the last one loses too much.

Static quantization with one calibration after the other, then with the most sensitive layers left in float32, then
training that knows of the rounding. Those that succeed are equally large and fast or better than what would follow.
"""

from __future__ import annotations

import logging
import tempfile
from functools import partial
from pathlib import Path

import torch

from labline.compression.candidates import FLOAT32, Tried, attempt
from labline.compression.conditions import Conditions
from labline.compression.quantization import quantize
from labline.compression.quantization_aware import finish, prepare
from labline.compression.sensitivity import sensitivities
from labline.export.onnx import export_onnx
from labline.models.classifier import ImageClassifier

logger = logging.getLogger(__name__)


def int8_versions(source: Tried, model: ImageClassifier, conditions: Conditions) -> list[Tried]:
    """The versions tried of `source`, a float32 file, whose network is `model`; the last is the one that fits, if any.

    They are called `int8-static` of fp32 and `<name>+int8` of others, with what was needed behind it: `-percentile`,
    `-entropy`, `-mixed` (some layers in float32), `-aware` (trained).
    """
    if source.path is None:
        return []
    name = "int8-static" if source.name == FLOAT32 else f"{source.name}+int8"
    tried: list[Tried] = []
    for calibration in conditions.settings.calibrations:
        called = name if calibration == conditions.settings.calibrations[0] else f"{name}-{calibration}"
        build = partial(quantize, source.path, calibration_images=conditions.samples, calibration=calibration)
        tried.append(attempt(called, conditions.directory, build, conditions.judged))
        if conditions.fits(tried[-1]) or tried[-1].path is None:
            return tried
    if conditions.settings.float_layers:
        build = partial(_mixed, source.path, conditions)
        tried.append(attempt(f"{name}-mixed", conditions.directory, build, conditions.judged))
        if conditions.fits(tried[-1]):
            return tried
    if "int8-aware" in conditions.settings.passes:
        called = f"{name.removesuffix('-static')}-aware"
        build = partial(_aware, model, called, conditions)
        tried.append(conditions.in_time(called) or attempt(called, conditions.directory, build, conditions.judged))
    return tried


def _mixed(source: Path, conditions: Conditions, target: Path) -> Path:
    """Leave the most sensitive layers in float32, one more each time, until the rest fits or enough are left."""
    ranked = list(sensitivities(source, conditions.samples))
    for count in range(1, min(conditions.settings.float_layers, len(ranked) - 1) + 1):
        quantize(source, target, conditions.samples, float_layers=ranked[:count])
        logger.info("%s keeps in float32: %s", target.stem, ", ".join(ranked[:count]))
        if conditions.fits(Tried(target.stem, target, conditions.judged(target))):
            break
    return target


def _aware(model: ImageClassifier, name: str, conditions: Conditions, target: Path) -> Path:
    """Train the network while it is rounded, and quantize what comes of it."""
    prepared = prepare(model, torch.from_numpy(conditions.samples))
    trained = finish(conditions.finetune(prepared, name))
    with tempfile.TemporaryDirectory() as scratch:
        float32 = export_onnx(trained, Path(scratch) / "float32.onnx", conditions.image_size, conditions.channels)
        return quantize(float32, target, conditions.samples)
