"""The TensorFlow Lite part of an export: which files are released, and the proof that they agree with PyTorch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from labline.errors import LablineError
from labline.references import Candidate, CompressedModel
from labline.usecase import Export, ImageUseCase
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from labline.compression.choice import Search
    from labline.data.dataset import Dataset
    from labline.export.parity import Parity
    from labline.models.classifier import ImageClassifier

TOLERANCE = 1e-4  # of the outputs, or of the largest logit where that exceeds 1: a hundred times float32's rounding
RELEASED = ("model.tflite", "chosen.tflite")


def require_formats(settings: Export) -> None:
    """Raise BadInput before anything slow where a declared format needs packages that are not installed."""
    from labline.export.tflite_runtime import require_tflite

    if "tflite" in settings.formats:
        require_tflite()


def smaller_network(
    declaration: ImageUseCase, compressed: CompressedModel, classes: int, workspace: Workspace
) -> dict[str, ImageClassifier]:
    """The pruned or taught network whose ONNX file was chosen, by its name: converting all of them takes too long.

    Empty where the chosen file has the trained network's own shape.
    """
    from labline.compression.reshaping import load_smaller
    from labline.compression.smaller import WEIGHTS

    name = compressed.chosen.partition("+")[0]
    path = workspace.resolve(compressed.directory) / f"{name}{WEIGHTS}"
    return {name: load_smaller(path, declaration, classes)} if path.is_file() else {}


@dataclass(frozen=True)
class TFLiteRelease:
    """The candidates, why one was chosen, and how float32 and chosen file agree with PyTorch; empty by default."""

    candidates: list[Candidate] = field(default_factory=list)
    reason: str = ""
    parity: dict[str, float] = field(default_factory=dict)


def release_tflite(
    declaration: ImageUseCase,
    data: Dataset,
    model: ImageClassifier,
    images: npt.NDArray[np.uint8],
    workspace: Workspace,
    smaller: Mapping[str, ImageClassifier],
) -> TFLiteRelease:
    """Leave `model.tflite` (float32) and `chosen.tflite` in the workspace.

    `images` are those parity is shown on, `smaller` the pruned or taught networks that compete. Raises LablineError
    where the float32 file does not answer as PyTorch does.
    """
    from labline.compression.images import judge_on_validation
    from labline.compression.tflite import search_tflite
    from labline.export.parity import parity_of
    from labline.export.tflite_runtime import interpreter, tflite_logits

    found = search_tflite(
        model,
        declaration.compression,
        declaration.data.image_size,
        declaration.data.channels,
        calibration_images=data.split("validation")[0],
        evaluate=judge_on_validation(declaration, data),
        directory=workspace.path / "tflite",
        smaller=smaller,
    )
    candidates = keep_released(found, workspace)
    seen = {
        name: parity_of(model, partial(tflite_logits, interpreter(workspace.path / name)), images) for name in RELEASED
    }
    float32, chosen = (seen[name] for name in RELEASED)
    figures = {
        "tflite_max_abs_difference": float32.max_abs_difference,
        "tflite_decision_agreement": float32.decision_agreement,
        "tflite_chosen_max_abs_difference": chosen.max_abs_difference,
        "tflite_chosen_decision_agreement": chosen.decision_agreement,
    }
    workspace.metrics({f"parity_{name}": value for name, value in figures.items()})
    check_parity(float32)
    return TFLiteRelease(candidates, found.reason, figures)


def keep_released(found: Search, workspace: Workspace) -> list[Candidate]:
    """Copy the float32 file, first in the table, and the chosen one to the names they are released by.

    Shows the table, and returns its rows.
    """
    frame = found.candidates
    measured = frame[frame["bytes"].notna()].astype({"bytes": int})
    candidates = [Candidate.model_validate(row) for row in measured[list(Candidate.model_fields)].to_dict("records")]
    paths = measured.set_index("name")["path"]
    for candidate, name in zip((candidates[0].name, found.chosen), RELEASED, strict=True):
        shutil.copyfile(paths[candidate], workspace.path / name)
    workspace.table("tflite_candidates", frame.drop(columns="path"), show=20)
    workspace.say(f"TensorFlow Lite: {found.reason}")
    workspace.parameters({"export.tflite_chosen": found.chosen})
    chosen = next(candidate for candidate in candidates if candidate.chosen)
    workspace.metrics({"tflite_bytes": chosen.bytes, "tflite_latency_ms_p50": chosen.latency_ms_p50})
    return candidates


def check_parity(float32: Parity) -> None:
    """Raise LablineError where the float32 file answers otherwise than PyTorch by more than rounding explains."""
    allowed = TOLERANCE * max(1.0, float32.largest)
    if float32.unexplained or float32.max_abs_difference > allowed:
        raise LablineError(
            f"model.tflite and PyTorch decide differently on {float32.unexplained} of {float32.samples} images, and "
            f"their logits differ by up to {float32.max_abs_difference:.2g} (allowed: {allowed:.2g}): the export "
            "cannot be trusted. Look for layers whose export is not exact, or take tflite out of export.formats."
        )
