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
from labline.export.onnx_runtime import EMBEDDING, onnx_answers, onnx_logits, output_sizes, session
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


def test_a_client_sends_raw_pixels_and_gets_logits_probabilities_and_an_embedding(path: Path) -> None:
    exported = session(path)

    (images,) = exported.get_inputs()
    logits, probabilities, embedding = exported.get_outputs()

    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 16, 16, 3])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 5])
    assert (probabilities.name, probabilities.type, probabilities.shape) == (
        "probabilities",
        "tensor(float)",
        ["batch", 5],
    )
    assert (embedding.name, embedding.type, embedding.shape) == ("embedding", "tensor(float)", ["batch", 64])
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


def head_of(size: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Linear(3 * size * size, 5))


class Tokens(nn.Module):
    """Classifies each patch and averages: its last linear layer sees sixteen rows an image."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 8, 4, 4), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        logits_NTK: torch.Tensor = self.head(self.attention(self.patches(images_NCHW).flatten(2).transpose(1, 2)))
        return logits_NTK.mean(1)


class FirstLayerLast(nn.Module):
    """Defines its layers in another order than it calls them, and one of them it calls twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.stem = nn.Linear(5, 5), nn.Linear(3, 5)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(torch.relu(self.head(self.stem(images_NCHW.mean((2, 3))))))
        return answer


def last_input(model: ImageClassifier, layer: nn.Module) -> np.ndarray:
    """What PyTorch gives a layer when it is called for the last time."""
    taken: list[torch.Tensor] = []
    with layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0])), torch.inference_mode():
        model.eval()(torch.from_numpy(IMAGES))
    return taken[-1].flatten(1).numpy()


@pytest.mark.parametrize(
    "network",
    [build("resnet", 3, 5, 16, width=0.25), head_of(4), Tokens(), FirstLayerLast()],
    ids=["resnet", "linear", "tokens", "called twice"],
)
def test_the_embedding_is_what_the_last_linear_layer_takes(network: nn.Module, tmp_path: Path) -> None:
    model = ImageClassifier(network, torch.full((3,), 120.0), torch.full((3,), 60.0)).eval()
    (layer,) = [layer for name, layer in network.named_modules() if name in ("head", "2")]

    exported = session(export_onnx(model, tmp_path / "model.onnx", image_size=16, channels=3))

    embedding_ND = onnx_answers(exported, IMAGES, EMBEDDING, batch_size=17)
    np.testing.assert_allclose(embedding_ND, last_input(model, layer), atol=1e-5)
    assert onnx_logits(exported, IMAGES[:0]).shape == (0, 5)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Sequential(nn.Upsample(28), head_of(28)),
    ],
    ids=["no linear layer", "2,352 values"],
)
def test_without_a_summary_of_moderate_size_there_is_no_embedding(network: nn.Module, tmp_path: Path) -> None:
    model = ImageClassifier(network, torch.zeros(3), torch.ones(3))

    exported = session(export_onnx(model, tmp_path / "model.onnx", image_size=16, channels=3))

    assert output_sizes(exported) == {"logits": 5, "probabilities": 5}


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
