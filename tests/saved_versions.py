"""Small real versions, saved as the register stage saves them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from labline.compression.quantization import quantize
from labline.export.onnx import export_onnx
from labline.export.onnx_runtime import output_sizes, session
from labline.models import ImageClassifier, build

LABELS = ["crack", "dent", "good", "scratch", "stain"]
SIZE, CHANNELS = 16, 3


def save_version(graph: Path, folder: Path, images: np.ndarray, extra: tuple[Path, ...] = ()) -> Path:
    """A version as `tasks/register.py` logs it."""
    import mlflow.onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    evaluation = graph.parent / "evaluation.json"
    evaluation.write_text(json.dumps({"labels": LABELS}))
    sizes = output_sizes(session(graph))
    scores = [TensorSpec(np.dtype(np.float32), (-1, size), name) for name, size in sizes.items()]
    pixels = TensorSpec(np.dtype(np.uint8), (-1, SIZE, SIZE, CHANNELS), "images")
    mlflow.onnx.save_model(
        onnx.load(graph),
        str(folder),
        signature=ModelSignature(inputs=Schema([pixels]), outputs=Schema(scores)),
        input_example=images[:2],
        pip_requirements=["onnxruntime"],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
        extra_files=[str(path) for path in (evaluation, *extra)],
    )
    return folder


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, SIZE, SIZE, CHANNELS), dtype=np.uint8)


@pytest.fixture(scope="session")
def classifier(images: np.ndarray) -> ImageClassifier:
    """An untrained model whose batch norms have seen data."""
    network = build("cnn", CHANNELS, len(LABELS), SIZE, width=0.25)
    model = ImageClassifier(network, torch.full((CHANNELS,), 120.0), torch.full((CHANNELS,), 60.0))
    model.train()(torch.from_numpy(images))
    return model.eval()


@pytest.fixture(scope="session")
def versions(
    classifier: ImageClassifier, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The same model as fp32 and as int8-static, by the name of its compression."""
    scratch = tmp_path_factory.mktemp("versions")
    fp32 = export_onnx(classifier, scratch / "fp32.onnx", SIZE, CHANNELS)
    int8 = quantize(fp32, scratch / "int8-static.onnx", images)
    return {graph.stem: save_version(graph, scratch / graph.stem, images, (fp32,)) for graph in (fp32, int8)}


@pytest.fixture(params=["fp32", "int8-static"])
def version(request: pytest.FixtureRequest, versions: dict[str, Path]) -> Path:
    """Each version in turn; not to be written to."""
    return versions[request.param]


@pytest.fixture
def copied(versions: dict[str, Path], tmp_path: Path) -> Path:
    """A version of the test's own, to damage."""
    return Path(shutil.copytree(versions["fp32"], tmp_path / "version"))


@pytest.fixture(scope="session")
def export_network() -> Callable[[nn.Module, Path], Path]:
    """Writes a user's own network as ONNX."""

    def export(network: nn.Module, path: Path) -> Path:
        return export_onnx(ImageClassifier(network, torch.zeros(CHANNELS), torch.ones(CHANNELS)), path, SIZE, CHANNELS)

    return export
