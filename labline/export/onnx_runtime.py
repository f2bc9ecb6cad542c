"""Running an exported file with ONNX Runtime. Imports no torch: the service runs models and never trains them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

INPUT = "images"
OUTPUTS = ("logits", "probabilities")


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU with full graph optimisation and the given number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # At the basic level an INT8 graph runs about four times slower.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnx_logits(
    session: onnxruntime.InferenceSession, images: npt.NDArray[np.uint8], batch_size: int = 256
) -> npt.NDArray[np.float32]:
    """Logits, float32 N x classes, of uint8 NHWC images (N may be 0), computed in batches."""
    return onnx_answers(session, images, "logits", batch_size)


def onnx_answers(
    session: onnxruntime.InferenceSession, samples: npt.NDArray[np.generic], output: str, batch_size: int = 256
) -> npt.NDArray[np.float32]:
    """The named output, float32 N x outputs, of a file with one input for N samples (N may be 0), in batches."""
    name = session.get_inputs()[0].name
    starts = range(0, max(len(samples), 1), batch_size)
    return np.concatenate([session.run([output], {name: samples[start : start + batch_size]})[0] for start in starts])
