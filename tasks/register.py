"""Register: one version in the MLflow registry that holds everything needed to serve, judge and rebuild it."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labline.declaration import as_toml
from labline.gates import judge
from labline.references import (
    CompressedModel,
    DatasetRef,
    EvaluatedModel,
    ExportedModel,
    RegisteredVersion,
    TrainedModel,
)
from labline.usecase import UseCase
from tasks.environment import PROJECT
from tasks.gate import released_figures
from tasks.recording import current_recording
from tasks.stage import stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from labline.data.dataset import Dataset


if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def still_registered(result: RegisteredVersion) -> bool:
    """Whether the registry still holds a version that was registered earlier."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        MlflowClient().get_model_version(result.model, result.version)
    except MlflowException:
        return False
    return True


@stage(
    sections=("name", "title", "gates", "data", "cleaning", "model", "training", "compression", "export"),
    retries=2,
    still_valid=still_registered,
)
def register(
    declaration: UseCase,
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
    import onnx

    from labline.data.dataset import open_dataset

    recording = current_recording()
    data = open_dataset(workspace.resolve(dataset.directory))
    card = _card(declaration, data, compressed, exported, evaluated, workspace)
    (workspace.files / "model_card.md").write_text(card)
    extra = _extra_files(declaration, trained, exported, evaluated, card, workspace)
    example = data.split("test")[0][:2]
    with mlflow.start_run(run_id=recording.run_id, log_system_metrics=False):
        _log_dataset(declaration, data, dataset)
        logged = mlflow.onnx.log_model(
            onnx.load(workspace.resolve(exported.directory) / "chosen.onnx"),
            name=declaration.name,
            signature=_signature(declaration, len(data.labels)),
            input_example=example,
            pip_requirements=[f"{name}=={version(name)}" for name in ("onnx", "onnxruntime", "numpy")],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            extra_files=[str(path) for path in extra],
            registered_model_name=declaration.name,
        )
    number = str(logged.registered_model_version)
    _describe(recording.client, declaration, number, card, _tags(dataset, compressed, exported, evaluated))
    return RegisteredVersion(
        directory=workspace.name,
        digest=f"{declaration.name}/{number}",
        model=declaration.name,
        version=number,
        run_id=recording.run_id,
        figure=f"models:/{declaration.name}/{number}",
    )


def _card(
    declaration: UseCase,
    data: Dataset,
    compressed: CompressedModel,
    exported: ExportedModel,
    evaluated: EvaluatedModel,
    workspace: Workspace,
) -> str:
    import pandas as pd

    from labline.evaluation import open_evaluation
    from labline.model_card import model_card

    return model_card(
        declaration,
        open_evaluation(workspace.resolve(evaluated.directory) / "evaluation.json"),
        pd.DataFrame([candidate.model_dump() for candidate in compressed.candidates]),
        compressed.chosen,
        {f"{split} images": int(count) for split, count in data.manifest["split"].value_counts().items()},
        exported.parity,
        judge(declaration.gates, released_figures(compressed, evaluated)),
    )


def _extra_files(
    declaration: UseCase,
    trained: TrainedModel,
    exported: ExportedModel,
    evaluated: EvaluatedModel,
    card: str,
    workspace: Workspace,
) -> list[Path]:
    """What a version carries besides the chosen ONNX file."""
    folder = workspace.path / "version"
    folder.mkdir(exist_ok=True)
    shutil.copy(workspace.resolve(exported.directory) / "model.onnx", folder / "fp32.onnx")
    shutil.copy(workspace.resolve(trained.directory) / "model.safetensors", folder)
    for name in ("baseline.json", "evaluation.json"):
        shutil.copy(workspace.resolve(evaluated.directory) / name, folder)
    (folder / "usecase.toml").write_text(as_toml(declaration))
    (folder / "model_card.md").write_text(card)
    lock = PROJECT / "requirements.lock"
    if lock.is_file():
        shutil.copy(lock, folder)
    return sorted(folder.iterdir())


def _signature(declaration: UseCase, classes: int) -> ModelSignature:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    size, channels = declaration.data.image_size, declaration.data.channels
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype(np.float32), (-1, classes), name) for name in ("logits", "probabilities")
    ]
    images = TensorSpec(np.dtype(np.uint8), (-1, size, size, channels), "images")
    return ModelSignature(inputs=Schema([images]), outputs=Schema(outputs))


def _log_dataset(declaration: UseCase, data: Dataset, dataset: DatasetRef) -> None:
    import mlflow
    from mlflow.data.pandas_dataset import from_pandas

    columns = ["sample_id", "split", "label", "sha256"]
    logged = from_pandas(
        data.manifest[columns],
        source=declaration.data.path or declaration.data.source,
        targets="label",
        name=declaration.name,
        digest=dataset.digest[:32],
    )
    mlflow.log_input(logged, context="training")


def _tags(
    dataset: DatasetRef, compressed: CompressedModel, exported: ExportedModel, evaluated: EvaluatedModel
) -> dict[str, str]:
    figures = {name: f"{value:.6g}" for name, value in released_figures(compressed, evaluated).items()}
    return {
        "dataset.digest": dataset.digest,
        "compression.chosen": compressed.chosen,
        "parity": json.dumps(exported.parity),
        **figures,
    }


def _describe(client: Any, declaration: UseCase, number: str, card: str, tags: dict[str, str]) -> None:
    client.update_registered_model(declaration.name, description=declaration.title)
    client.update_model_version(declaration.name, number, description=card)
    for name, value in tags.items():
        client.set_model_version_tag(declaration.name, number, name, value)
