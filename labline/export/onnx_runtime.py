"""Running an exported file with ONNX Runtime. Imports no torch: the service runs models and never trains them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

CPU = "CPUExecutionProvider"
INPUT = "images"
OUTPUTS = ("logits", "probabilities")
EMBEDDING = "embedding"  # a third output where the network has a last linear layer: what that layer takes


def session(path: Path, threads: int = 1, providers: Sequence[str] = (CPU,)) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session with full graph optimisation and the given number of threads, on the CPU if not said."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # At the basic level an INT8 graph runs about four times slower.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=list(providers))


def onnx_logits(
    session: onnxruntime.InferenceSession, images: npt.NDArray[np.uint8], batch_size: int = 256
) -> npt.NDArray[np.float32]:
    """Logits, float32 N x classes, of uint8 NHWC images (N may be 0), computed in batches."""
    return onnx_answers(session, images, "logits", batch_size)


def onnx_answers(
    session: onnxruntime.InferenceSession, samples: npt.NDArray[np.generic], output: str, batch_size: int = 256
) -> npt.NDArray[np.float32]:
    """The named output, float32 N x outputs, of a file with one input for N samples (N may be 0), in batches."""
    (answers,) = onnx_outputs(session, samples, [output], batch_size)
    return answers


def onnx_outputs(
    session: onnxruntime.InferenceSession,
    samples: npt.NDArray[np.generic],
    outputs: Sequence[str],
    batch_size: int = 256,
) -> list[npt.NDArray[np.float32]]:
    """Several named outputs of one pass over the samples, each as `onnx_answers` gives it."""
    name = session.get_inputs()[0].name
    starts = range(0, max(len(samples), 1), batch_size)
    batches = [session.run(list(outputs), {name: samples[start : start + batch_size]}) for start in starts]
    return [np.concatenate(answers) for answers in zip(*batches, strict=True)]


def output_sizes(session: onnxruntime.InferenceSession) -> dict[str, int]:
    """How many values each output has for one sample, by its name, in the order of the file."""
    return {output.name: int(output.shape[1]) for output in session.get_outputs()}
