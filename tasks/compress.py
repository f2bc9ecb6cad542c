"""Compress: smaller and faster candidates, measured here, and the one that pays."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from labline.references import Candidate, CompressedModel, DatasetRef, TrainedModel
from labline.usecase import ImageUseCase
from tasks.stage import stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from labline.training import Epoch

PARETO_COLUMNS = ["name", "metric", "latency_ms_p50", "latency_ms_p99", "bytes", "chosen"]


@stage(sections=("model", "training", "augmentation", "compression", "data"), resumes=True)
def compress(
    declaration: ImageUseCase, dataset: DatasetRef, trained: TrainedModel, *, workspace: Workspace
) -> CompressedModel:
    """Search for smaller and faster versions; every candidate is judged on validation and timed on this machine."""
    from labline.compression.images import search_images
    from labline.data.dataset import open_dataset
    from labline.models.weights import load_classifier
    from labline.plots import pareto

    data = open_dataset(workspace.resolve(dataset.directory))
    model = load_classifier(workspace.resolve(trained.directory) / "model.safetensors", declaration, len(data.labels))
    select = declaration.training.select

    def on_epoch(name: str, epoch: Epoch, epochs: int) -> None:
        figure = getattr(epoch, f"validation_{select}")
        workspace.progress(epoch.epoch, epochs, f"{name}: epoch {epoch.epoch} of {epochs}, {select} {figure:.4f}")

    found = search_images(declaration, data, model, workspace.path, on_epoch)
    frame = found.candidates
    measured = frame[frame["bytes"].notna()].astype({"bytes": int})
    candidates = [Candidate.model_validate(row) for row in measured[list(Candidate.model_fields)].to_dict("records")]
    workspace.table("candidates", frame.drop(columns="path"), show=20)
    workspace.table("pareto", frame.loc[frame["pareto"], PARETO_COLUMNS].sort_values("latency_ms_p50"), show=20)
    workspace.say(found.reason)
    workspace.figure("pareto", pareto(measured, select))
    workspace.parameters({"compression.chosen": found.chosen})
    files = "".join(hashlib.sha256((workspace.path / f"{c.name}.onnx").read_bytes()).hexdigest() for c in candidates)
    return CompressedModel(
        directory=workspace.name,
        digest=hashlib.sha256((found.chosen + files).encode()).hexdigest(),
        candidates=candidates,
        chosen=found.chosen,
        reason=found.reason,
        figure=found.reason,
    )
