"""Measuring speed: the figures are there and plausible; which model is faster is never decided by a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from labline.errors import BadInput
from labline.export.latency import measure

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 1), dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A graph that takes raw images and turns them to floats."""
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", 16, 16, 1])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 16, 16, 1])
    cast = onnx.helper.make_node("Cast", ["images"], ["logits"], to=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph([cast], "cast", [images], [logits])
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_every_model_gets_its_figures(path: Path) -> None:
    table = measure({"first": path, "second": path}, IMAGES, seconds=0.2)

    assert list(table.columns) == ["name", "latency_ms_p50", "latency_ms_p99", "throughput"]
    assert list(table["name"]) == ["first", "second"]
    figures = table.drop(columns="name").to_numpy()
    assert np.isfinite(figures).all()
    assert (figures > 0).all()
    assert (table["latency_ms_p50"] <= table["latency_ms_p99"]).all()


def test_nothing_to_measure_is_refused(path: Path) -> None:
    with pytest.raises(BadInput, match="0 models and 5 samples"):
        measure({}, IMAGES)
    with pytest.raises(BadInput, match="1 models and 0 samples"):
        measure({"model": path}, IMAGES[:0])
