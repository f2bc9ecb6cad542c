"""The model that all servers of the serving benchmark run: an untrained network, as labline exports it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from labline.export.onnx import export_onnx
from labline.export.onnx_runtime import INPUT, output_sizes, session
from labline.models import ImageClassifier, build

NAME = "benchmark"
SIZE, CHANNELS, CLASSES = 32, 3, 10
WIDTH = 0.84  # 281,470 parameters
PROBABILITIES = "probabilities"


def images(count: int = 64) -> npt.NDArray[np.uint8]:
    """Noise, uint8 N x 32 x 32 x 3: the hardest images to compress, as the feedback store does."""
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, CHANNELS), dtype=np.uint8)


def export(path: Path) -> Path:
    """Write the ONNX file; its weights are random and its batch norms have seen `images`."""
    network = build("cnn", CHANNELS, CLASSES, SIZE, width=WIDTH)
    model = ImageClassifier(network, torch.full((CHANNELS,), 127.5), torch.full((CHANNELS,), 74.0))
    model.train()(torch.from_numpy(images()))
    return export_onnx(model.eval(), path, SIZE, CHANNELS)


def parameters(path: Path) -> int:
    """How many numbers the file holds."""
    return sum(int(np.prod(weights.dims)) for weights in onnx.load(path).graph.initializer)


def probabilities(path: Path, images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What every server should answer, N x 10, on one thread."""
    answer: npt.NDArray[np.float32] = session(path, 1).run([PROBABILITIES], {INPUT: images_NHWC})[0]
    return answer


def with_probabilities_alone(path: Path, destination: Path) -> Path:
    """The same graph with one output, so that a server that answers all outputs need not answer what nobody asks."""
    graph = onnx.load(path)
    kept = [output for output in graph.graph.output if output.name == PROBABILITIES]
    del graph.graph.output[:]
    graph.graph.output.extend(kept)
    onnx.save(graph, destination)
    return destination


def save_for_mlflow(path: Path, folder: Path) -> Path:
    """The model as an MLflow model folder, to run on one thread."""
    import mlflow.onnx

    mlflow.onnx.save_model(onnx.load(path), str(folder), **_logged(path))
    return folder


def register(path: Path, store: Path) -> dict[str, str]:
    """Make the model version 1 of a registry in the empty folder `store`, in Production.

    Returns the variables that point labline and MLflow there.
    """
    import mlflow.onnx

    database = f"sqlite:///{store}/mlflow.db"
    labels = store / "evaluation.json"
    labels.write_text(json.dumps({"labels": [f"class-{number}" for number in range(CLASSES)]}))
    folder = store / "version"
    mlflow.onnx.save_model(onnx.load(path), str(folder), extra_files=[str(labels)], **_logged(path))
    client = mlflow.MlflowClient(database, database)  # and not the process's own: its other users would be moved too
    client.create_registered_model(NAME)
    number = client.create_model_version(NAME, str(folder)).version
    client.set_registered_model_alias(NAME, "production", str(number))
    return {
        "LABLINE_STORE": str(store),
        "LABLINE_FEEDBACK": f"sqlite:///{store}/feedback.db",
        "MLFLOW_TRACKING_URI": database,
        "MLFLOW_REGISTRY_URI": database,
    }


def _logged(path: Path) -> dict[str, Any]:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    pixels = TensorSpec(np.dtype(np.uint8), (-1, SIZE, SIZE, CHANNELS), INPUT)
    sizes = output_sizes(session(path))
    scores: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype(np.float32), (-1, values), name) for name, values in sizes.items()
    ]
    return {
        "signature": ModelSignature(inputs=Schema([pixels]), outputs=Schema(scores)),
        "input_example": images(2),
        "pip_requirements": ["onnxruntime"],
        "onnx_execution_providers": ["CPUExecutionProvider"],
        "onnx_session_options": {"intra_op_num_threads": 1},
        "save_as_external_data": False,
    }
