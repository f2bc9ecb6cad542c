"""The TensorFlow Lite file: what a client sees, that it says what PyTorch says, and what happens without the extra."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from labline.errors import BadInput
from labline.export.latency import measure
from labline.export.onnx import export_onnx
from labline.export.parity import parity_of
from labline.export.tflite import export_tflite, quantize_tflite, write_tflite
from labline.export.tflite_runtime import MODULES, interpreter, tflite_answers, tflite_logits
from labline.models import ImageClassifier, build

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)

needs_extra = pytest.mark.skipif(
    any(find_spec(name) is None for name in MODULES), reason="the extra labline[tflite] is not installed here"
)


def classifier(architecture: str = "cnn") -> ImageClassifier:
    """An untrained model whose batch norms have seen data, and whose temperature is not 1."""
    model = ImageClassifier(build(architecture, 3, 5, 16, width=0.25), torch.full((3,), 120.0), torch.full((3,), 60.0))
    model.train()(torch.from_numpy(IMAGES))
    model.temperature.fill_(1.5)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> ImageClassifier:
    return classifier("resnet")


@pytest.fixture(scope="module")
def path(model: ImageClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tflite(model, tmp_path_factory.mktemp("tflite") / "deep" / "model.tflite", image_size=16, channels=3)


@pytest.fixture(scope="module")
def int8(path: Path) -> Path:
    return quantize_tflite(path, path.with_name("int8.tflite"), IMAGES)


@needs_extra
def test_a_client_sends_one_raw_image_and_gets_logits_and_probabilities(path: Path, int8: Path) -> None:
    for opened in (interpreter(path), interpreter(int8)):
        (image,) = opened.get_input_details()
        outputs = opened.get_signature_runner().get_output_details()

        assert (image["dtype"], list(image["shape"])) == (np.uint8, [1, 16, 16, 3])
        assert {name: (details["dtype"], list(details["shape"])) for name, details in outputs.items()} == {
            "logits": (np.float32, [1, 5]),
            "probabilities": (np.float32, [1, 5]),
        }
        shares = tflite_answers(opened, IMAGES[:7], "probabilities")
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
        assert tflite_logits(opened, IMAGES[:0]).shape == (0, 5)


@needs_extra
def test_float_logits_equal_those_of_pytorch(model: ImageClassifier, path: Path) -> None:
    found = parity_of(model, lambda images: tflite_logits(interpreter(path), images), IMAGES)

    assert (found.samples, found.unexplained) == (64, 0)
    assert found.max_abs_difference < 1e-4


@needs_extra
def test_int8_is_smaller_and_stays_near(path: Path, int8: Path) -> None:
    expected, logits = (tflite_logits(interpreter(file), IMAGES) for file in (path, int8))

    assert int8.stat().st_size < 0.6 * path.stat().st_size
    assert np.abs(logits - expected).max() < 0.1 * np.ptp(expected)
    assert len(np.unique(logits)) > 256  # the answer itself stays in float


@needs_extra
def test_recurrent_networks_keep_their_own_names_and_take_dynamic_range(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = LastState(features=3, width=32).eval()
    windows_NTF = torch.randn(16, 5, 3)

    path = write_tflite(network, windows_NTF[:1], tmp_path / "model.tflite", "windows", ["forecast"], "LastState")
    dynamic = quantize_tflite(path, tmp_path / "int8.tflite", calibration=None)

    with torch.inference_mode():
        expected = network(windows_NTF).numpy()
    forecasts = tflite_answers(interpreter(path), windows_NTF.numpy(), "forecast")
    np.testing.assert_allclose(forecasts, expected, atol=1e-5)
    coarse = tflite_answers(interpreter(dynamic), windows_NTF.numpy(), "forecast")
    np.testing.assert_allclose(coarse, expected, atol=0.05)
    assert dynamic.stat().st_size < path.stat().st_size


class LastState(nn.Module):
    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(features, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, windows_NTF: torch.Tensor) -> torch.Tensor:
        states_NTW, _ = self.recurrent(windows_NTF)
        forecast_N1: torch.Tensor = self.head(states_NTW[:, -1])
        return forecast_N1


@needs_extra
def test_speed_is_measured_beside_onnx(model: ImageClassifier, path: Path, tmp_path: Path) -> None:
    onnx = export_onnx(model, tmp_path / "model.onnx", 16, 3)

    table = measure({"onnx": onnx, "tflite": path}, IMAGES, seconds=0.05)

    assert list(table["name"]) == ["onnx", "tflite"]
    assert (table[["latency_ms_p50", "latency_ms_p99", "throughput"]] > 0).all(axis=None)


@needs_extra
def test_what_the_file_cannot_take_or_give_is_said(path: Path, tmp_path: Path) -> None:
    opened = interpreter(path)

    with pytest.raises(BadInput, match=r"takes uint8 samples of shape \(16, 16, 3\), got float32"):
        tflite_logits(opened, IMAGES.astype(np.float32))
    with pytest.raises(BadInput, match="no output 'forecast'; it has logits, probabilities"):
        tflite_answers(opened, IMAGES, "forecast")
    with pytest.raises(BadInput, match="calibration samples, got none"):
        quantize_tflite(path, tmp_path / "int8.tflite", IMAGES[:0])
    (tmp_path / "broken.tflite").write_bytes(b"no model")
    with pytest.raises(BadInput, match="broken.tflite: LiteRT cannot open it"):
        interpreter(tmp_path / "broken.tflite")


class BranchesOnValues(nn.Module):
    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        means_N = images_NCHW.mean(dim=(1, 2, 3))
        return torch.stack([means_N, -means_N] if means_N.sum() > 0 else [-means_N, means_N], dim=1)


class SortsPixels(nn.Module):
    """torch.export takes it, LiteRT has no such operator."""

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(images_NCHW.mean(dim=1))[:, :2]


@needs_extra
@pytest.mark.parametrize("network", [BranchesOnValues(), SortsPixels()], ids=lambda network: type(network).__name__)
def test_an_architecture_that_cannot_be_exported_is_named_with_the_next_step(
    network: nn.Module, tmp_path: Path
) -> None:
    model = ImageClassifier(network, torch.zeros(3), torch.ones(3))

    with pytest.raises(BadInput, match=f"{type(network).__name__} cannot be exported to TensorFlow Lite: .*Expected a"):
        export_tflite(model, tmp_path / "model.tflite", image_size=16, channels=3)


@needs_extra
def test_converting_is_quiet_and_leaves_the_model_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = classifier("cnn").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    path = export_tflite(model, tmp_path / "model.tflite", image_size=16, channels=3)
    tflite_logits(interpreter(path), IMAGES[:1])

    assert capfd.readouterr() == ("", "")
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "litert_torch" not in sys.modules


def test_without_the_extra_one_message_says_how_to_add_it(tmp_path: Path) -> None:
    """In a process whose import system knows none of the extra's modules."""
    program = f"""
import importlib.util, pathlib, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {MODULES!r} else found(name, package)
from labline.errors import BadInput
from labline.export.latency import measure
from labline.export.tflite_runtime import interpreter, require_tflite
for call in (require_tflite, lambda: interpreter(pathlib.Path("model.tflite"))):
    try:
        call()
    except BadInput as error:
        print(error.exit_code, error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    first, second = said.splitlines()
    assert first == second
    assert first.startswith("2 TensorFlow Lite needs ai-edge-litert, ai-edge-quantizer, litert-torch")
    assert "make setup" in first


@needs_extra
@pytest.mark.skipif("LABLINE_DATA" not in os.environ, reason="LABLINE_DATA is unset: no real images here")
@pytest.mark.parametrize("architecture", ["cnn", "resnet"])
def test_float32_decides_alike_on_a_thousand_real_images(architecture: str, tmp_path: Path) -> None:
    with np.load(Path(os.environ["LABLINE_DATA"]) / "pneumoniamnist.npz") as archive:
        images = archive["train_images"][:1000, ..., np.newaxis]
    model = ImageClassifier(build(architecture, 1, 2, 28), torch.tensor([146.0]), torch.tensor([43.0]))
    model.train()(torch.from_numpy(images[:128]))

    opened = interpreter(export_tflite(model, tmp_path / "model.tflite", 28, 1))
    found = parity_of(model, lambda images: tflite_logits(opened, images), images)

    assert found.samples == 1000
    assert found.max_abs_difference < 1e-4
    assert found.unexplained == 0
    assert found.decision_agreement >= 0.999
