"""TensorFlow Lite export.

The converter takes seconds to import and a gigabyte of memory, writes to the console, and brings JAX along: it runs in
a process of its own, which is handed what torch.export saved and so needs none of the user's modules.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import labline
from labline.compression.folding import fold_batch_norm
from labline.errors import BadInput, LablineError
from labline.export.onnx_runtime import INPUT, OUTPUTS
from labline.export.tflite_runtime import require_tflite
from labline.models.classifier import ImageClassifier

LONGEST_SECONDS = 900.0  # far beyond the ten seconds of a shipped network: a converter that hangs must end some day
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "LITERT_TORCH_SHOW_PROGRESS": "n"}


def export_tflite(model: ImageClassifier, path: Path, image_size: int, channels: int) -> Path:
    """Write the model as one float32 TensorFlow Lite file and return its path.

    Input `images`: uint8, 1 x image_size x image_size x channels (LiteRT's converter knows fixed batches only); the
    preprocessing is inside. Outputs `logits` and `probabilities` (their softmax): float32, 1 x classes.
    Raises BadInput where the extra is missing or the architecture cannot be exported.
    """
    released = _WithSoftmax(fold_batch_norm(copy.deepcopy(model).cpu())).eval()
    image_NHWC = torch.zeros(1, image_size, image_size, channels, dtype=torch.uint8)
    return write_tflite(released, image_NHWC, path, INPUT, OUTPUTS, type(model.backbone).__name__)


def write_tflite(
    module: nn.Module, sample: torch.Tensor, path: Path, input_name: str, output_names: Sequence[str], called: str
) -> Path:
    """Write a module on the CPU, in evaluation mode, as one float32 TensorFlow Lite file for one sample at a time.

    `sample` has batch 1 and the dtype that the file will take (uint8 or float32); `module` answers with one tensor, or
    a tuple, of which `output_names` has one name each. `called` is what an error calls the network.
    Raises BadInput where the extra is missing or the network cannot be exported.
    """
    require_tflite()
    with tempfile.TemporaryDirectory() as scratch:  # readable by this user only
        program = Path(scratch) / "program.pt2"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of recurrent layers' private lists of weights
                exported = torch.export.export(_Named(module, output_names).eval(), (), {input_name: sample})
        # It runs the user's own forward() on stand-ins for tensors, which may raise anything.
        except Exception as error:
            raise _cannot_export(called, _first_line(error)) from error
        torch.export.save(exported, program)
        path.parent.mkdir(parents=True, exist_ok=True)
        problem = _run("convert", program, path)
    if problem:
        raise _cannot_export(called, problem)
    return path


def quantize_tflite(source: Path, target: Path, calibration: npt.NDArray[np.generic] | None) -> Path:
    """Write an int8 version of a float32 file of `write_tflite`, with the same input and outputs; return its path.

    With `calibration` (samples N x the input's shape, of validation) it is static: int8 weights with a scale a channel,
    int8 activations in the range seen on the samples; made for convolutions. With None it is dynamic range: int8
    weights, activations quantized as they come; made for recurrent networks, whose state keeps its range.
    Raises BadInput where the extra is missing or there is no calibration sample, LablineError where quantizing fails.
    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks"; LiteRT's quantization guide.
    """
    require_tflite()
    if calibration is not None and len(calibration) == 0:
        raise BadInput("INT8 quantization needs calibration samples, got none. Give it validation samples.")
    with tempfile.TemporaryDirectory() as scratch:
        options: list[str | Path] = []
        if calibration is not None:
            options = ["--calibration", Path(scratch) / "calibration.npy"]
            np.save(options[1], calibration, allow_pickle=False)
        problem = _run("quantize", source, target, *options)
    if problem:
        raise LablineError(f"{source.name} cannot be quantized for TensorFlow Lite: {problem}")
    return target


class _WithSoftmax(nn.Module):
    """What a client calls: the classifier with its softmax."""

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images_NHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits_NK = self.classifier(images_NHWC)
        return logits_NK, torch.softmax(logits_NK, dim=1)


class _Named(nn.Module):
    """A module whose input and outputs carry names, which the converter writes into the file's signature."""

    def __init__(self, module: nn.Module, output_names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.output_names = tuple(output_names)

    def forward(self, **samples: torch.Tensor) -> dict[str, torch.Tensor]:
        (sample,) = samples.values()
        answer = self.module(sample)
        return dict(zip(self.output_names, answer if isinstance(answer, tuple) else (answer,), strict=True))


def _run(command: str, source: Path, target: Path, *options: str | Path) -> str:
    """Run the conversion program; what its exception said where it failed, empty where it did not.

    Raises LablineError where it was killed or never ended.
    """
    package = str(Path(labline.__file__).parents[1])  # found there whatever the working directory is
    search = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    line = [sys.executable, "-m", "labline.export.tflite_conversion", command, str(source), str(target)]
    try:
        ended = subprocess.run(
            [*line, *map(str, options)],
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": search},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=LONGEST_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise LablineError(
            f"TensorFlow Lite conversion ({command}) took longer than {LONGEST_SECONDS:g} s and was stopped: "
            "try a smaller network, or take tflite out of export.formats."
        ) from error
    if ended.returncode < 0:
        raise LablineError(
            f"TensorFlow Lite conversion ({command}) was killed by signal {-ended.returncode}, out of memory most "
            "likely: it needs 1.5 GB beside the training."
        )
    return _last_error(ended.stderr) if ended.returncode else ""


def _last_error(said: str) -> str:
    """The exception a chatty program ended with."""
    lines = [line for line in said.splitlines() if line.strip()]
    exceptions = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return [*lines[-1:], *exceptions[-1:]][-1] if lines else "it said nothing"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _cannot_export(called: str, reason: str) -> BadInput:
    return BadInput(
        f"model.architecture: {called} cannot be exported to TensorFlow Lite: {reason}. "
        "Expected a forward() without Python branches on tensor values, of layers LiteRT knows; "
        "try other layers, or take tflite out of export.formats."
    )
