"""Running a TensorFlow Lite file with LiteRT alone: neither torch nor the converter is needed where it runs.

Files that labline exports take one sample at a time: throughput is what single samples give, one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from labline.errors import BadInput

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

SUFFIX = ".tflite"
MODULES = ("ai_edge_litert", "ai_edge_quantizer", "litert_torch")  # what the extra brings


def require_tflite() -> None:
    """Raise BadInput, with what to install, where the optional extra for TensorFlow Lite is missing."""
    missing = [name.replace("_", "-") for name in MODULES if find_spec(name) is None]
    if missing:
        raise BadInput(
            f"TensorFlow Lite needs {', '.join(missing)}, not installed here (the extra labline[tflite]): "
            "run make setup, or pip install --no-deps --requirement requirements.lock; "
            "or leave it out with --set 'export.formats=[\"onnx\"]'."
        )


def interpreter(path: Path, threads: int = 1) -> Interpreter:
    """A LiteRT interpreter on the CPU with the given number of threads, ready to be called.

    It is not safe to call from several threads at once. Raises BadInput where LiteRT is not installed, or the file is
    not there or no TensorFlow Lite model.
    """
    require_tflite()
    from ai_edge_litert.interpreter import Interpreter

    try:
        with _without_greeting():
            opened = Interpreter(model_path=str(path), num_threads=threads)
            opened.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"{path}: LiteRT cannot open it: {error}. Expected a .tflite file.") from error
    return opened


def tflite_logits(interpreter: Interpreter, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Logits, float32 N x classes, of uint8 NHWC images (N may be 0), computed one by one."""
    return tflite_answers(interpreter, images, "logits")


def tflite_answers(interpreter: Interpreter, samples: npt.NDArray[np.generic], output: str) -> npt.NDArray[np.float32]:
    """The named output, float32 N x outputs, of a file with one input for N samples (N may be 0), one by one.

    Raises BadInput where the file has no such output, or takes other samples.
    """
    answers = tflite_run(interpreter, samples)
    if output not in answers:
        raise BadInput(f"the TensorFlow Lite file has no output {output!r}; it has {', '.join(sorted(answers))}")
    return answers[output]


def tflite_run(interpreter: Interpreter, samples: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.float32]]:
    """Every output by its name, float32 N x outputs, of a file with one input; raises BadInput for other samples."""
    (source,) = interpreter.get_input_details()
    targets = interpreter.get_signature_runner().get_output_details()
    expected = tuple(map(int, source["shape"][1:]))
    if samples.shape[1:] != expected or samples.dtype != source["dtype"]:
        raise BadInput(
            f"the TensorFlow Lite file takes {np.dtype(source['dtype'])} samples of shape {expected}, "
            f"got {samples.dtype} of {samples.shape[1:]}"
        )
    answers = {
        name: np.empty((len(samples), *target["shape"][1:]), dtype=np.float32) for name, target in targets.items()
    }
    for position in range(len(samples)):
        interpreter.set_tensor(source["index"], samples[position : position + 1])
        interpreter.invoke()
        for name, target in targets.items():
            answers[name][position] = interpreter.get_tensor(target["index"])[0]
    return answers


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Hold back what LiteRT's C++ says of its delegate on standard error: no setting silences it."""
    try:
        kept = os.dup(2)
    except OSError:  # a process without standard error
        yield
        return
    silence = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silence)
