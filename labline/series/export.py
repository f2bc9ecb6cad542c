"""Export of forecasters to ONNX: raw windows in, the forecast out, the scalers inside.

Shape legend: N windows, T rows, F features.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from labline.errors import BadInput
from labline.export.onnx import write_onnx
from labline.export.onnx_runtime import onnx_answers
from labline.series.forecaster import Forecaster
from labline.series.forecasting import WindowSource, predict

INPUT, OUTPUT = "windows", "forecast"
TOLERANCE = 1e-4  # of the target's standard deviation: a hundred times what two float32 runtimes differ by

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ForecastParity:
    """How far an exported forecaster is from the PyTorch one on the same windows.

    `max_abs_difference` is over all outputs, in the target's unit (of logits for classes); `decision_agreement`
    (0 to 1) is the share of windows with every output within TOLERANCE of the target's standard deviation.
    """

    max_abs_difference: float
    decision_agreement: float
    samples: int


def export_forecaster(model: Forecaster, path: Path, window: int, features: int) -> Path:
    """Write the forecaster as one ONNX file and return its path.

    Input `windows`: float32, batch x window x features, raw, any batch size. Output `forecast`: float32, batch x what
    `Forecaster.forward` says of its head. The same weights give the same bytes. Raises BadInput where the network
    cannot be exported, LablineError where the written file does not pass `onnx.checker`.
    """
    released = copy.deepcopy(model).cpu().eval()
    windows_NTF = torch.zeros(2, window, features)
    return write_onnx(released, windows_NTF, path, INPUT, [OUTPUT], type(model.backbone).__name__)


def quantize_weights(source: Path, target: Path) -> Path:
    """Write a version of a float32 ONNX file whose matrix products and LSTMs have INT8 weights; return its path.

    Dynamic: activations are quantized as they come, so nothing is calibrated, and a recurrent state keeps its range.
    ONNX Runtime has no INT8 kernel for GRU and RNN nodes, which stay in float32. Raises BadInput where nothing was
    there to quantize.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # advice to preprocess, on the root logger
    try:
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, op_types_to_quantize=["LSTM", "MatMul", "Gemm"])
    finally:
        logging.disable(disabled)
    if not any("Dynamic" in node.op_type or "Integer" in node.op_type for node in _nodes(target)):
        raise BadInput("nothing in this network has an INT8 kernel in ONNX Runtime")
    return target


def onnx_forecasts(session: onnxruntime.InferenceSession, windows: WindowSource) -> Floats:
    """What an exported file forecasts for every window, in order: float32 N x outputs."""
    inputs_NTF, _ = windows.batch(np.arange(len(windows)))
    return onnx_answers(session, inputs_NTF, OUTPUT)


def forecast_parity(model: Forecaster, exported: Floats, windows: WindowSource) -> ForecastParity:
    """Compare what an exported file forecasts for `windows`, N x outputs, with PyTorch in float32 on the CPU."""
    if len(windows) == 0:
        raise BadInput("parity needs at least one window, got none. Give it the test split.")
    # A copy on the CPU: TF32 or bfloat16 of the training device would be measured otherwise.
    differences = np.abs(predict(copy.deepcopy(model), windows) - exported)
    allowed = TOLERANCE * float(model.target_std)
    return ForecastParity(
        max_abs_difference=float(differences.max()),
        decision_agreement=float((differences.max(axis=1) <= allowed).mean()),
        samples=len(windows),
    )


def _nodes(path: Path) -> list[Any]:
    import onnx

    return list(onnx.load(path).graph.node)
