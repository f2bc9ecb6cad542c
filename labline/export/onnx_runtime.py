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
    starts = range(0, max(len(images), 1), batch_size)
    batches = [session.run(["logits"], {INPUT: images[start : start + batch_size]})[0] for start in starts]
    return np.concatenate(batches)
