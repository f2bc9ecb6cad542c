"""Forecasters as ONNX files: any batch, raw windows in, INT8 where there is a kernel for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from labline.errors import BadInput
from labline.export.onnx_runtime import session
from labline.models import SERIES_ARCHITECTURES, build_series
from labline.series.declaration import Head
from labline.series.export import export_forecaster, forecast_parity, onnx_forecasts, quantize_weights
from labline.series.forecaster import Forecaster, head_outputs
from labline.series.forecasting import ArrayWindows, predict

WINDOW, FEATURES = 12, 3
RANDOM = np.random.default_rng(0)
WINDOWS = ArrayWindows(
    RANDOM.normal(50, 20, (37, WINDOW, FEATURES)).astype(np.float32), RANDOM.normal(size=37).astype(np.float32)
)


def forecaster(architecture: str, head: Head = "gaussian") -> Forecaster:
    backbone = build_series(architecture, FEATURES, WINDOW, head_outputs(head))
    mean, std = torch.full((FEATURES,), 50.0), torch.full((FEATURES,), 20.0)
    return Forecaster(backbone, mean, std, target_mean=-2.0, target_std=0.5, head=head).eval()


@pytest.mark.parametrize("architecture", sorted(SERIES_ARCHITECTURES))
def test_every_architecture_answers_any_batch_as_pytorch_does(architecture: str, tmp_path: Path) -> None:
    model = forecaster(architecture)
    path = export_forecaster(model, tmp_path / "model.onnx", WINDOW, FEATURES)
    exported = session(path)
    assert [(node.name, node.type) for node in exported.get_inputs()] == [("windows", "tensor(float)")]
    assert forecast_parity(model, onnx_forecasts(exported, WINDOWS), WINDOWS).decision_agreement == 1
    one = ArrayWindows(WINDOWS.inputs[:1], WINDOWS.targets[:1])
    np.testing.assert_allclose(onnx_forecasts(exported, one), predict(model, one), atol=1e-5)


@pytest.mark.parametrize("head", ["gaussian", "quantile", "point", "classes"])
def test_every_head_is_exported(head: Head, tmp_path: Path) -> None:
    model = forecaster("rnn", head)
    exported = session(export_forecaster(model, tmp_path / "model.onnx", WINDOW, FEATURES))
    assert forecast_parity(model, onnx_forecasts(exported, WINDOWS), WINDOWS).max_abs_difference < 1e-5


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    model = forecaster("gru")
    first, second = (export_forecaster(model, tmp_path / f"{n}.onnx", WINDOW, FEATURES).read_bytes() for n in "ab")
    assert first == second


def test_an_lstm_in_int8_is_smaller_and_close(tmp_path: Path) -> None:
    model = forecaster("lstm")
    float32 = export_forecaster(model, tmp_path / "fp32.onnx", WINDOW, FEATURES)
    int8 = quantize_weights(float32, tmp_path / "int8.onnx")
    assert int8.stat().st_size < float32.stat().st_size
    assert "DynamicQuantizeLSTM" in {node.op_type for node in onnx.load(int8).graph.node}
    assert forecast_parity(model, onnx_forecasts(session(int8), WINDOWS), WINDOWS).max_abs_difference < 0.05


def test_parity_sees_another_model(tmp_path: Path) -> None:
    path = export_forecaster(forecaster("rnn"), tmp_path / "model.onnx", WINDOW, FEATURES)
    answered = onnx_forecasts(session(path), WINDOWS)
    assert forecast_parity(forecaster("gru"), answered, WINDOWS).decision_agreement < 1


def test_parity_needs_windows() -> None:
    none = ArrayWindows(WINDOWS.inputs[:0], WINDOWS.targets[:0])
    with pytest.raises(BadInput, match="at least one window"):
        forecast_parity(forecaster("rnn"), WINDOWS.inputs[:0], none)
