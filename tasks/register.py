"""Register: one version in the MLflow registry that holds everything needed to serve, judge and rebuild it."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labline.declaration import as_toml
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
from labline.usecase import ImageUseCase
from tasks.gate import released_figures, released_intervals
from tasks.lineage import LOCK, Trained, read_facts
from tasks.recording import Recording, current_recording
from tasks.stage import file_digest, stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

    from labline.data.dataset import Dataset

IDENTITY = ["sample_id", "split", "label", "sha256"]  # of a row: which sample, on which side, said to be what
LINEAGE_TAGS = (
    "dataset.digest", "dataset.directory", "code.commit", "lock.sha256", "weights.sha256", "onnx.sha256",
    "chosen.sha256", "compression.chosen", "parent.version", "reason",
)  # fmt: skip
RELEASED_AS = {"model.onnx": "fp32.onnx", "model.tflite": "fp32.tflite", "chosen.tflite": "model.tflite"}
RELEASED = "labline.released.sha256"  # in MLflow's description of the model
LONGEST = 5000  # characters: MLflow's description and tag columns on PostgreSQL


def still_registered(result: RegisteredVersion) -> bool:
    """Whether the registry still holds a version that was registered earlier."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        found = MlflowClient().get_model_version(result.model, result.version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise  # a server that is away has lost nothing
        return False
    return bool(found.run_id == result.run_id)  # of another registry, on a storage root that machines share


@stage(
    sections=("name", "title", "gates", "data", "cleaning", "model", "training", "compression", "export"),
    retries=2,
    still_valid=still_registered,
)
def register(
    declaration: ImageUseCase,
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

    from labline.data.dataset import open_dataset

    recording = current_recording()
    data = open_dataset(workspace.resolve(dataset.directory))
    card = _card(declaration, data, compressed, exported, evaluated, workspace)
    (workspace.files / "model_card.md").write_text(card)
    (workspace.files / "model_card.html").write_text(model_card_page(card))
    lineage = lineage_of(recording, declaration, dataset, trained, exported, workspace)
    rows = data.manifest[IDENTITY]
    extra = version_files(declaration, rows, lineage, trained, exported, evaluated, workspace)
    example = data.split("test")[0][:2]
    with mlflow.start_run(run_id=recording.run_id, log_system_metrics=False):
        log_dataset(declaration, rows, dataset, targets="label")
        released = workspace.resolve(exported.directory) / "chosen.onnx"
        number = log_version(declaration, released, _signature(declaration, released), example, extra)
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
    declaration: ImageUseCase,
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
        pd.DataFrame([candidate.model_dump() for candidate in [*compressed.candidates, *exported.candidates]]),
        compressed.chosen,
        {f"{split} images": int(count) for split, count in data.manifest["split"].value_counts().items()},
        exported.parity,
        judge(declaration.gates, released_figures(compressed, evaluated), released_intervals(evaluated)),
    )


def lineage_of(
    recording: Recording,
    declaration: Trained,
    dataset: DatasetRef,
    trained: TrainedModel,
    exported: ExportedModel,
    workspace: Workspace,
) -> dict[str, str]:
    """What leads back from a version: of what it was made, by what, after which one and why."""
    weights, released = workspace.resolve(trained.directory), workspace.resolve(exported.directory)
    return {
        **read_facts(weights, declaration),
        "dataset.digest": dataset.digest,
        "dataset.directory": dataset.directory,  # in this storage root; promotion looks there before it makes it again
        "weights.sha256": file_digest(weights / "model.safetensors"),
        "onnx.sha256": file_digest(released / "model.onnx"),
        "chosen.sha256": file_digest(released / "chosen.onnx"),
        "compression.chosen": exported.chosen,
        "parent.version": _production(recording.client, declaration.name),
        "reason": recording.reason[:LONGEST],
    }


def _production(client: MlflowClient, model: str) -> str:
    """The version that the alias `production` names at this moment; empty where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        aliases: Any = client.get_registered_model(model).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return ""  # this is the first version
    return str(aliases.get("production", ""))


def version_files(
    declaration: Trained,
    rows: pd.DataFrame,
    lineage: dict[str, str],
    trained: TrainedModel,
    exported: ExportedModel,
    evaluated: EvaluatedModel,
    workspace: Workspace,
) -> list[Path]:
    """What a version carries besides the chosen ONNX file, which MLflow logs as model.onnx.

    `rows` say which sample stood on which side.
    """
    folder = workspace.path / "version"
    folder.mkdir(exist_ok=True)
    for source, name in RELEASED_AS.items():
        if (released := workspace.resolve(exported.directory) / source).is_file():
            shutil.copy(released, folder / name)
    shutil.copy(workspace.resolve(trained.directory) / "model.safetensors", folder)
    for name in ("baseline.json", "evaluation.json", "reference.parquet"):
        shutil.copy(workspace.resolve(evaluated.directory) / name, folder)
    (folder / "usecase.toml").write_text(as_toml(declaration))
    (folder / "environment.json").write_text(json.dumps(lineage, indent=2))
    rows.to_parquet(folder / "manifest.parquet", index=False)
    for name in ("model_card.md", "model_card.html"):
        shutil.copy(workspace.files / name, folder)
    if LOCK.is_file():
        shutil.copy(LOCK, folder)
    return sorted(folder.iterdir())


def _signature(declaration: ImageUseCase, released: Path) -> ModelSignature:
    """Raw images in; out what the released file gives: logits, probabilities and, of most networks, an embedding."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    from labline.export.onnx_runtime import output_sizes, session

    size, channels = declaration.data.image_size, declaration.data.channels
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype(np.float32), (-1, values), name) for name, values in output_sizes(session(released)).items()
    ]
    images = TensorSpec(np.dtype(np.uint8), (-1, size, size, channels), "images")
    return ModelSignature(inputs=Schema([images]), outputs=Schema(outputs))


def log_version(
    declaration: Trained, released: Path, signature: ModelSignature, example: npt.NDArray[Any], extra: list[Path]
) -> str:
    """Log the released ONNX file on the active run with all it carries, register it, and return the version.

    The same file on the same run is one version: it was registered when the connection was lost, or the process killed.
    """
    import mlflow
    import onnx

    digest = file_digest(released)
    if (earlier := _registered_before(declaration.name, digest)) is not None:
        return earlier
    logged = mlflow.onnx.log_model(
        onnx.load(released),
        name=declaration.name,
        signature=signature,
        input_example=example,
        pip_requirements=[f"{name}=={version(name)}" for name in ("onnx", "onnxruntime", "numpy")],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
        extra_files=[str(path) for path in extra],
        registered_model_name=declaration.name,
        metadata={RELEASED: digest},
    )
    return str(logged.registered_model_version)


def _registered_before(model: str, digest: str) -> str | None:
    """The version that the active run registered of this file; None where it did not."""
    import mlflow
    from mlflow.models import get_model_info

    run = mlflow.active_run()
    assert run is not None
    for known in mlflow.MlflowClient().search_model_versions(f"name = '{model}' and run_id = '{run.info.run_id}'"):
        metadata = get_model_info(f"models:/{model}/{known.version}").metadata or {}
        if metadata.get(RELEASED) == digest:
            return str(known.version)
    return None


def log_dataset(declaration: Trained, rows: pd.DataFrame, dataset: DatasetRef, targets: str | None = None) -> None:
    """Name the data set as an input of the active run; `targets` is the column of `rows` to learn, if it is there."""
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.pandas_dataset import from_pandas
    from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made when imported

    path = declaration.data.path
    logged = from_pandas(
        rows,
        source=LocalArtifactDatasetSource(path) if path else CodeDatasetSource({"source": declaration.data.source}),
        targets=targets,
        name=declaration.name,
        digest=dataset.digest[:32],
    )
    mlflow.log_input(logged, context="training")


def version_tags(
    lineage: dict[str, str], compressed: CompressedModel, exported: ExportedModel, evaluated: EvaluatedModel
) -> dict[str, str]:
    """The lineage, the parity and every figure that a gate can name."""
    figures = {name: f"{value:.6g}" for name, value in released_figures(compressed, evaluated).items()}
    return {
        **{name: lineage[name] for name in LINEAGE_TAGS},
        "parity": json.dumps(exported.parity),
        **figures,
    }


def describe(client: Any, declaration: Trained, number: str, card: str, tags: dict[str, str]) -> None:
    """Put title, card and tags on the registry's pages."""
    client.update_registered_model(declaration.name, description=declaration.title[:LONGEST])
    client.update_model_version(declaration.name, number, description=shortened(card))
    for name, value in tags.items():
        client.set_model_version_tag(declaration.name, number, name, value)


def shortened(card: str, most: int = LONGEST) -> str:
    """A card of at most `most` characters: whole sections from the top, and where the others are."""
    if len(card) <= most:
        return card
    kept, *sections = card.split("\n\n## ")
    pointer = "\n\nThe sections left out here stand in `model_card.md` among the artifacts.\n"
    for section in sections:
        longer = f"{kept}\n\n## {section}"
        if len(longer) + len(pointer) > most:
            break
        kept = longer
    return kept + pointer
