"""Static INT8 quantization of an exported model."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
from onnxruntime.quantization.shape_inference import quant_pre_process

from labline.errors import BadInput
from labline.export.onnx_runtime import INPUT

CALIBRATION_BATCH = 32


def quantize(source: Path, target: Path, calibration_images: npt.NDArray[np.uint8]) -> Path:
    """Write an INT8 version of a float32 ONNX file with the same inputs and outputs, and return its path.

    QDQ format, unsigned 8-bit activations with one scale a tensor (range seen on `calibration_images`, uint8 NHWC,
    validation samples), signed weights with one scale a channel: the pair for which AVX-512 VNNI and AVX2 have
    instructions. Weights keep 7 bits: AVX2 adds pairs of 8-bit products in 16 bits, which overflow with the eighth,
    and a registered model has to decide alike on every machine that serves it.
    Preprocessing, logits and softmax stay in float32. Same inputs, same bytes.
    Raises BadInput where there is no calibration image.
    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks"; ONNX Runtime's quantization guide.
    """
    if len(calibration_images) == 0:
        raise BadInput("INT8 quantization needs calibration images, got none. Give it validation samples.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        # Symbolic shape inference fails on max-pool followed by reshape, and a static image graph does not need it.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _Batches(calibration_images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=[node.name for node in onnx.load(prepared).graph.node if node.op_type == "Softmax"],
            # 256 levels of logits would make ties and coarse probabilities, and win no time.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
    return target


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
    """Hold back what onnxruntime.quantization writes to the root logger: advice on choices already made here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
