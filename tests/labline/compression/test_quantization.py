"""INT8 quantization keeps the interface and nearly all decisions, and shrinks the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from labline.compression.quantization import quantize
from labline.errors import BadInput
from labline.export.onnx import export_onnx
from labline.export.onnx_runtime import EMBEDDING, onnx_answers, onnx_logits, session
from labline.models import ImageClassifier

Stripes = Callable[[int, int], tuple[Any, Any]]


@pytest.fixture(scope="module")
def float32(trained: ImageClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(trained, tmp_path_factory.mktemp("quantization") / "fp32.onnx", image_size=16, channels=1)


def test_decisions_survive_and_the_file_shrinks(float32: Path, tmp_path: Path, stripes: Stripes) -> None:
    calibration, _ = stripes(70, 2)
    images, targets = stripes(200, 3)

    int8 = quantize(float32, tmp_path / "int8.onnx", calibration)

    assert (onnx_logits(session(float32), images).argmax(axis=1) == targets).mean() > 0.95
    assert (onnx_logits(session(int8), images).argmax(axis=1) == targets).mean() > 0.95
    assert int8.stat().st_size < 0.6 * float32.stat().st_size


def test_clients_see_no_difference(float32: Path, tmp_path: Path, stripes: Stripes) -> None:
    int8 = quantize(float32, tmp_path / "int8.onnx", stripes(16, 2)[0])

    before, after = session(float32), session(int8)

    for old, new in zip(
        [*before.get_inputs(), *before.get_outputs()], [*after.get_inputs(), *after.get_outputs()], strict=True
    ):
        assert (old.name, old.type, old.shape) == (new.name, new.type, new.shape)


def test_the_embedding_is_nearly_that_of_float32(float32: Path, tmp_path: Path, stripes: Stripes) -> None:
    int8 = quantize(float32, tmp_path / "int8.onnx", stripes(70, 2)[0])
    images, _ = stripes(200, 3)

    before, after = (onnx_answers(session(path), images, EMBEDDING) for path in (float32, int8))

    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.98


def test_activations_are_unsigned_weights_signed_and_logits_float(
    float32: Path, tmp_path: Path, stripes: Stripes
) -> None:
    graph = onnx.load(quantize(float32, tmp_path / "int8.onnx", stripes(16, 2)[0])).graph

    dtypes = {tensor.name: tensor.data_type for tensor in graph.initializer}
    activations = {dtypes[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}
    weights = {dtypes[name] for name in dtypes if name.endswith("weight_quantized")}
    producers = {output: node.op_type for node in graph.node for output in node.output}
    assert activations == {onnx.TensorProto.UINT8}
    assert weights == {onnx.TensorProto.INT8}
    assert producers["logits"] == "Gemm"
    assert producers["probabilities"] == "Softmax"


def test_weights_leave_one_bit_free_so_that_avx2_sums_do_not_overflow(
    float32: Path, tmp_path: Path, stripes: Stripes
) -> None:
    graph = onnx.load(quantize(float32, tmp_path / "int8.onnx", stripes(16, 2)[0])).graph

    weights = [numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith("weight_quantized")]

    assert weights
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) <= 64


def test_same_inputs_same_bytes_and_no_word(
    float32: Path, tmp_path: Path, stripes: Stripes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    images, _ = stripes(40, 2)

    first = quantize(float32, tmp_path / "first.onnx", images)
    second = quantize(float32, tmp_path / "second.onnx", images)

    assert first.read_bytes() == second.read_bytes()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_calibration_needs_images(float32: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs calibration images"):
        quantize(float32, tmp_path / "int8.onnx", np.zeros((0, 16, 16, 1), dtype=np.uint8))
