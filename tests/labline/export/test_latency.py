"""Measuring speed: the figures are there and plausible; which model is faster is never decided by a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from labline.errors import BadInput
from labline.export.latency import measure
from labline.export.onnx import export_onnx
from labline.models import ImageClassifier, build

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 1), dtype=np.uint8)


def test_every_model_gets_its_figures(tmp_path: Path) -> None:
    model = ImageClassifier(build("cnn", 1, 3, 16, width=0.25), torch.zeros(1), torch.ones(1))
    path = export_onnx(model, tmp_path / "model.onnx", 16, 1)

    table = measure({"first": path, "second": path}, IMAGES, seconds=0.2)

    assert list(table.columns) == ["name", "latency_ms_p50", "latency_ms_p99", "throughput"]
    assert list(table["name"]) == ["first", "second"]
    figures = table.drop(columns="name")
    assert np.isfinite(figures.to_numpy()).all() and (figures > 0).all(axis=None)
    assert (table["latency_ms_p50"] <= table["latency_ms_p99"]).all()


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs models and images"):
        measure({}, IMAGES)
    with pytest.raises(BadInput, match="needs models and images"):
        measure({"model": tmp_path / "model.onnx"}, IMAGES[:0])
