"""INT8 quantization of an exported model: static, with several ways to calibrate, and dynamic."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization import quantize_dynamic as write_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from labline.errors import BadInput
from labline.export.onnx_runtime import INPUT
from labline.usecase import Calibration

CALIBRATION_BATCH = 32
METHODS: dict[Calibration, CalibrationMethod] = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
PERCENTILE = 99.99
WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantize(
    source: Path,
    target: Path,
    calibration_images: npt.NDArray[np.uint8],
    calibration: Calibration = "minmax",
    float_layers: Sequence[str] = (),
) -> Path:
    """Write an INT8 version of a float32 ONNX file with the same inputs and outputs, and return its path.

    QDQ format, unsigned 8-bit activations with one scale a tensor, signed weights with one scale a channel: the pair
    for which AVX-512 VNNI and AVX2 have instructions. Weights keep 7 bits: AVX2 adds pairs of 8-bit products in 16
    bits, which overflow with the eighth, and a registered model has to decide alike on every machine that serves it.
    Preprocessing, logits and softmax stay in float32, and so do the `float_layers`, named as `layers` names them.
    `calibration_images` (uint8 NHWC, validation samples) show the range of each activation: all of it with `minmax`,
    all but the rarest 0.01 % with `percentile`, and with `entropy` the one that keeps most of the distribution
    (Migacz 2017, "8-bit Inference with TensorRT"). Same inputs, same bytes.
    Raises BadInput where there is no calibration image.
    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks"; ONNX Runtime's quantization guide.
    """
    if len(calibration_images) == 0:
        raise BadInput("INT8 quantization needs calibration images, got none. Give it validation samples.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        prepared = _prepared(source, Path(scratch))
        quantize_static(
            prepared,
            target,
            _Batches(calibration_images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[calibration],
            nodes_to_exclude=[*_softmaxes(prepared), *float_layers],
            extra_options={
                # 256 levels of logits would make ties and coarse probabilities, and win no time.
                "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
                "CalibPercentile": PERCENTILE,
            },
        )
    return target


def quantize_dynamic(source: Path, target: Path) -> Path:
    """Write a version whose weights are INT8 and whose activations are quantized as they come; return its path.

    Nothing is calibrated. ONNX Runtime's kernel for such convolutions is slow; linear layers alone may gain.
    Source: ONNX Runtime's quantization guide.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        prepared = _prepared(source, Path(scratch))
        # Signed weights beside the unsigned activations that dynamic quantization always has.
        write_dynamic(prepared, target, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    return target


def layers(source: Path) -> list[str]:
    """Names of the layers with weights that `quantize` would quantize, in the order in which they run."""
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        graph = onnx.load(_prepared(source, Path(scratch))).graph
    return [node.name for node in graph.node if node.op_type in WITH_WEIGHTS]


def _prepared(source: Path, scratch: Path) -> Path:
    prepared = scratch / "prepared.onnx"
    # Symbolic shape inference fails on max-pool followed by reshape, and a static image graph does not need it.
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    return prepared


def _softmaxes(path: Path) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node if node.op_type == "Softmax"]


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime.quantization ships no types
    """Feeds calibration images in the form the graph takes them: raw uint8."""

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        starts = range(0, len(images), CALIBRATION_BATCH)
        self._batches = iter([images[start : start + CALIBRATION_BATCH] for start in starts])

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what onnxruntime.quantization prints, and writes to the root logger: advice on choices made here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
