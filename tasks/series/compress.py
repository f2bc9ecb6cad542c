"""Compress: the forecaster with INT8 weights beside the one without, measured here, and the one that pays."""

from __future__ import annotations

import hashlib

from labline.references import Candidate, CompressedModel, DatasetRef, TrainedModel
from labline.series.usecase import SeriesUseCase
from tasks.stage import stage
from tasks.workspace import Workspace


@stage(sections=("model", "training", "augmentation", "compression", "features"))
def compress(
    declaration: SeriesUseCase, dataset: DatasetRef, trained: TrainedModel, *, workspace: Workspace
) -> CompressedModel:
    """Export and quantize; every candidate is judged on validation and timed on this machine."""
    from labline.plots import pareto
    from labline.series.compression import search_forecasters
    from labline.series.dataset import open_series, windows
    from labline.series.weights import forecast_settings, load_forecaster, selected_metric

    data = open_series(workspace.resolve(dataset.directory))
    select, is_loss = selected_metric(declaration)
    found = search_forecasters(
        load_forecaster(workspace.resolve(trained.directory) / "model.safetensors", declaration),
        declaration.compression,
        declaration.features,
        windows(data, "validation"),
        forecast_settings(declaration),
        workspace.path,
    )
    frame = found.candidates
    measured = frame[frame["bytes"].notna()].astype({"bytes": int})
    candidates = [Candidate.model_validate(row) for row in measured[list(Candidate.model_fields)].to_dict("records")]
    workspace.table("candidates", frame.drop(columns="path"), show=10)
    workspace.say(found.reason)
    if is_loss:
        workspace.say(f"{select} is a loss: `lost` and the budget are shares of what it is with fp32.")
    workspace.figure("pareto", pareto(measured, select, unit="window", loss=is_loss))
    workspace.parameters({"compression.chosen": found.chosen})
    files = "".join(hashlib.sha256((workspace.path / f"{c.name}.onnx").read_bytes()).hexdigest() for c in candidates)
    return CompressedModel(
        directory=workspace.name,
        digest=hashlib.sha256((found.chosen + files).encode()).hexdigest(),
        candidates=candidates,
        chosen=found.chosen,
        reason=found.reason,
        unit="windows",
        figure=found.reason,
    )
