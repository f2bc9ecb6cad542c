"""The exported file: what a client sees, and that it says what the PyTorch model says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from labline.errors import BadInput
from labline.export.onnx import export_onnx
from labline.export.onnx_runtime import onnx_logits, session
from labline.models import ImageClassifier, build

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)


def classifier(architecture: str = "cnn") -> ImageClassifier:
    """An untrained model whose batch norms have seen data, and whose temperature is not 1."""
    model = ImageClassifier(build(architecture, 3, 5, 16, width=0.25), torch.full((3,), 120.0), torch.full((3,), 60.0))
    model.train()(torch.from_numpy(IMAGES))
    model.temperature.fill_(1.5)
    return model


@pytest.fixture(scope="module")
def model() -> ImageClassifier:
    return classifier()


@pytest.fixture(scope="module")
def path(model: ImageClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, tmp_path_factory.mktemp("onnx") / "deep" / "model.onnx", image_size=16, channels=3)


def test_a_client_sends_raw_pixels_and_gets_logits_and_probabilities(path: Path) -> None:
    exported = session(path)

    (images,) = exported.get_inputs()
    logits, probabilities = exported.get_outputs()

    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 16, 16, 3])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 5])
    assert (probabilities.name, probabilities.type, probabilities.shape) == (
        "probabilities",
        "tensor(float)",
        ["batch", 5],
    )
    (shares,) = exported.run(["probabilities"], {"images": IMAGES[:7]})
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 32, 256])
def test_logits_equal_those_of_pytorch_at_any_batch_size(model: ImageClassifier, path: Path, batch_size: int) -> None:
    with torch.inference_mode():
        expected = model.eval()(torch.from_numpy(IMAGES)).numpy()

    logits = onnx_logits(session(path), IMAGES, batch_size)

    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert onnx_logits(session(path), IMAGES[:0]).shape == (0, 5)


def test_batch_norm_is_folded(path: Path) -> None:
    assert "BatchNormalization" not in [node.op_type for node in onnx.load(path).graph.node]


def test_global_average_pooling_is_one_node(tmp_path: Path) -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model = ImageClassifier(pooled, torch.zeros(3), torch.ones(3))

    exported = export_onnx(model, tmp_path / "pooled.onnx", image_size=16, channels=3)

    operators = [node.op_type for node in onnx.load(exported).graph.node]
    assert operators.count("ReduceMean") == 1
    assert "Gather" not in operators


def test_same_weights_same_bytes_and_no_trace_of_our_disk(model: ImageClassifier, path: Path, tmp_path: Path) -> None:
    again = export_onnx(model, tmp_path / "again.onnx", image_size=16, channels=3)

    assert again.read_bytes() == path.read_bytes()
    assert b".py" not in path.read_bytes()


def test_exporting_is_quiet_and_leaves_the_model_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    model = classifier("resnet").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    export_onnx(model, tmp_path / "model.onnx", image_size=16, channels=3)

    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class BranchesOnValues(nn.Module):
    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        means_N = images_NCHW.mean(dim=(1, 2, 3))
        return torch.stack([means_N, -means_N] if means_N.sum() > 0 else [-means_N, means_N], dim=1)


def test_an_architecture_that_cannot_be_exported_is_named_with_the_next_step(tmp_path: Path) -> None:
    model = ImageClassifier(BranchesOnValues(), torch.zeros(3), torch.ones(3))

    with pytest.raises(BadInput, match="BranchesOnValues cannot be exported to ONNX.*Expected a forward"):
        export_onnx(model, tmp_path / "model.onnx", image_size=16, channels=3)
