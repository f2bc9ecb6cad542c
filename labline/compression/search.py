"""The search: try the declared compressions, measure each as it would be served, choose one or keep float32."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from labline.compression.candidates import FLOAT32, Evaluate, Quality, Tried, attempt, measured
from labline.compression.choice import Search, choose
from labline.compression.conditions import Conditions, Finetune, Teach
from labline.compression.int8 import int8_versions
from labline.compression.pruning import prune
from labline.compression.quantization import quantize_dynamic
from labline.compression.smaller import smaller_versions
from labline.export.onnx import export_onnx
from labline.export.onnx_runtime import onnx_logits, session
from labline.models.classifier import ImageClassifier
from labline.usecase import Compression


def search(
    model: ImageClassifier,
    settings: Compression,
    image_size: int,
    channels: int,
    calibration_images: npt.NDArray[np.uint8],
    evaluate: Evaluate,
    finetune: Finetune,
    teach: Teach,
    directory: Path,
    seconds: float = 1.5,
) -> Search:
    """Export the model and its declared compressions to `directory`, measure all, choose by the declared objective.

    Passes compose, the cheap ones first: fp32 and its INT8 versions (`int8_versions`), then networks with fewer
    channels, pruned or taught from scratch, each with its INT8 versions (`smaller_versions`). What can no longer win is
    not tried, and nothing is trained after `settings.minutes`; `choose` has the rule for the rest.
    `calibration_images` are uint8 NHWC validation samples, of which `settings.calibration_samples` are used;
    `evaluate` gives the quality on validation of a function from images to logits, metrics of which more is better, the
    declared one first; none of them may lose more than the budget, since one alone can be blind: ROC-AUC does not see
    decisions move. `finetune` trains a pruned or rounded model for a short while and returns it, `teach` trains one of
    a share of the declared width from scratch; `seconds` is the measuring time a candidate in the budget, twice that
    where speeds come out close. A pass that fails on this architecture becomes a note; only a failing fp32 export
    raises (see `export_onnx`).
    """
    until = time.monotonic() + 60 * settings.minutes
    samples = calibration_images[: settings.calibration_samples]

    def judged(path: Path) -> Quality:
        return evaluate(partial(onnx_logits, session(path)))

    path = export_onnx(model, directory / f"{FLOAT32}.onnx", image_size, channels)
    float32 = Tried(FLOAT32, path, judged(path))
    conditions = Conditions(
        settings, image_size, channels, samples, judged, float32.quality, finetune, directory, until
    )

    def pruned(share: float, name: str) -> ImageClassifier:
        return finetune(prune(model, 1 - share, torch.from_numpy(samples[:2])), name)

    candidates = [float32]
    if "int8-dynamic" in settings.passes:
        candidates.append(attempt("int8-dynamic", directory, partial(quantize_dynamic, path), judged))
    if "int8-static" in settings.passes:
        candidates += int8_versions(float32, model, conditions)
    if "prune" in settings.passes:
        sizes = {f"pruned-{100 * ratio:.0f}": 1 - ratio for ratio in settings.prune_ratios}
        candidates += smaller_versions(sizes, pruned, conditions)
    if "distil" in settings.passes:
        sizes = {f"student-{100 * width:.0f}": width for width in settings.student_widths}
        candidates += smaller_versions(sizes, teach, conditions)
    return choose(measured(candidates, samples, settings.max_metric_drop, seconds), settings)
