"""Export: the released files, and the proof that they agree with PyTorch."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

import numpy as np

from labline.errors import LablineError
from labline.references import CompressedModel, DatasetRef, ExportedModel, TrainedModel
from labline.usecase import ImageUseCase
from tasks.stage import stage
from tasks.tflite import RELEASED, TFLiteRelease, release_tflite, smaller_network
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy.typing as npt

    from labline.data.dataset import Dataset

SAMPLES = 1000


@stage(sections=("export", "model", "data", "training", "compression"))
def export(
    declaration: ImageUseCase,
    dataset: DatasetRef,
    trained: TrainedModel,
    compressed: CompressedModel,
    *,
    workspace: Workspace,
) -> ExportedModel:
    """Release fp32 and chosen file of each declared format; the fp32 one must decide as PyTorch does on real images."""
    from labline.data.dataset import open_dataset
    from labline.export.onnx_runtime import session
    from labline.export.parity import parity
    from labline.models.weights import load_classifier

    data = open_dataset(workspace.resolve(dataset.directory))
    candidates = workspace.resolve(compressed.directory)
    shutil.copy(candidates / "fp32.onnx", workspace.path / "model.onnx")
    shutil.copy(candidates / f"{compressed.chosen}.onnx", workspace.path / "chosen.onnx")
    model = load_classifier(workspace.resolve(trained.directory) / "model.safetensors", declaration, len(data.labels))
    images = _images(data)
    seen = {name: parity(model, session(workspace.path / f"{name}.onnx"), images) for name in ("model", "chosen")}
    fp32 = seen["model"]
    figures = {
        "max_abs_difference": fp32.max_abs_difference,
        "decision_agreement": fp32.decision_agreement,
        "samples": float(fp32.samples),
        "chosen_max_abs_difference": seen["chosen"].max_abs_difference,
        "chosen_decision_agreement": seen["chosen"].decision_agreement,
    }
    workspace.metrics({f"parity_{name}": value for name, value in figures.items()})
    if fp32.unexplained:
        raise LablineError(
            f"model.onnx and PyTorch decide differently on {fp32.unexplained} of {fp32.samples} images "
            f"(largest difference of a logit {fp32.max_abs_difference:.2g}): the export cannot be trusted. "
            "Look for layers whose export is not exact, and report it."
        )
    names = ["model.onnx", "chosen.onnx"]
    tflite = TFLiteRelease()
    if "tflite" in declaration.export.formats:
        smaller = smaller_network(declaration, compressed, len(data.labels), workspace)
        tflite = release_tflite(declaration, data, model, images, workspace, smaller)
        names += RELEASED
    digest = hashlib.sha256()
    for name in names:
        digest.update((workspace.path / name).read_bytes())
    return ExportedModel(
        directory=workspace.name,
        digest=digest.hexdigest(),
        chosen=compressed.chosen,
        parity=figures | tflite.parity,
        candidates=tflite.candidates,
        tflite_reason=tflite.reason,
        figure=f"{' and '.join(declaration.export.formats)}: same decisions as PyTorch on {fp32.samples:,} images, "
        f"within {max(fp32.max_abs_difference, tflite.parity.get('tflite_max_abs_difference', 0.0)):.1e}",
    )


def _images(data: Dataset) -> npt.NDArray[np.uint8]:
    """Test images; where those are few, others after them, since agreement is no matter of what was trained on."""
    rows = [data.rows(split)["row"].to_numpy() for split in ("test", "validation", "train")]
    images: npt.NDArray[np.uint8] = data.images[np.concatenate(rows)[: max(len(rows[0]), SAMPLES)]]
    return images
