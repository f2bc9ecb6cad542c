"""Register: one version in the MLflow registry with everything needed to serve, judge and rebuild a forecaster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labline.gates import judge
from labline.model_card_page import model_card_page
from labline.references import (
    CompressedModel,
    DatasetRef,
    EvaluatedModel,
    ExportedModel,
    RegisteredVersion,
    TrainedModel,
)
from labline.series.usecase import SeriesUseCase
from tasks.gate import released_figures, released_intervals
from tasks.recording import current_recording
from tasks.register import (
    describe,
    lineage_of,
    log_dataset,
    log_version,
    still_registered,
    version_files,
    version_tags,
)
from tasks.stage import stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from labline.series.dataset import SeriesDataset

IDENTITY = ["sample_id", "timestamp", "entity", "split", "complete"]  # which row, when, of what, on which side


@stage(
    sections=("name", "title", "gates", "data", "cleaning", "features", "model", "training", "compression", "export"),
    retries=2,
    still_valid=still_registered,
)
def register(
    declaration: SeriesUseCase,
    dataset: DatasetRef,
    trained: TrainedModel,
    compressed: CompressedModel,
    exported: ExportedModel,
    evaluated: EvaluatedModel,
    *,
    workspace: Workspace,
) -> RegisteredVersion:
    """Log the model with its evidence and make it the next version, in no stage yet."""
    import mlflow

    from labline.series.dataset import open_series, windows

    recording = current_recording()
    data = open_series(workspace.resolve(dataset.directory))
    card = _card(declaration, data, compressed, exported, evaluated, workspace)
    (workspace.files / "model_card.md").write_text(card)
    (workspace.files / "model_card.html").write_text(model_card_page(card))
    lineage = lineage_of(recording, declaration, dataset, trained, exported, workspace)
    rows = data.manifest[IDENTITY]
    extra = version_files(declaration, rows, lineage, trained, exported, evaluated, workspace)
    example, _ = windows(data, "test").batch([0, 0] if len(windows(data, "test")) < 2 else [0, 1])
    with mlflow.start_run(run_id=recording.run_id, log_system_metrics=False):
        log_dataset(declaration, rows, dataset)
        released = workspace.resolve(exported.directory) / "chosen.onnx"
        number = log_version(declaration, released, _signature(declaration), example, extra)
    describe(recording.client, declaration, number, card, version_tags(lineage, compressed, exported, evaluated))
    return RegisteredVersion(
        directory=workspace.name,
        digest=f"{declaration.name}/{number}",
        model=declaration.name,
        version=number,
        run_id=recording.run_id,
        figure=f"models:/{declaration.name}/{number}",
    )


def _card(
    declaration: SeriesUseCase,
    data: SeriesDataset,
    compressed: CompressedModel,
    exported: ExportedModel,
    evaluated: EvaluatedModel,
    workspace: Workspace,
) -> str:
    import pandas as pd

    from labline.data.dataset import SPLITS
    from labline.series.assessment import open_assessment
    from labline.series.dataset import windows
    from labline.series.model_card import series_model_card
    from labline.series.weights import selected_metric

    return series_model_card(
        declaration,
        open_assessment(workspace.resolve(evaluated.directory) / "evaluation.json"),
        pd.DataFrame([candidate.model_dump() for candidate in [*compressed.candidates, *exported.candidates]]),
        compressed.chosen,
        {f"{split} windows": len(windows(data, split)) for split in SPLITS},
        exported.parity,
        judge(declaration.gates, released_figures(compressed, evaluated), released_intervals(evaluated)),
        selected_metric(declaration)[0],
    )


def _signature(declaration: SeriesUseCase) -> ModelSignature:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from labline.series.export import INPUT, OUTPUT
    from labline.series.forecaster import head_outputs

    features, network = declaration.features, declaration.model
    shape = (-1, features.window, len(features.inputs))
    outputs = head_outputs(network.head, network.quantiles)
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), shape, INPUT)]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, outputs), OUTPUT)]),
    )
