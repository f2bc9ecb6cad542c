"""ONNX export."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import nn

from labline.compression.folding import fold_batch_norm
from labline.errors import BadInput, LablineError
from labline.export.onnx_runtime import INPUT, OUTPUTS
from labline.models.classifier import ImageClassifier


def export_onnx(model: ImageClassifier, path: Path, image_size: int, channels: int) -> Path:
    """Write the model as one ONNX file and return its path.

    Input `images`: uint8, batch x image_size x image_size x channels, any batch size; the preprocessing is inside.
    Outputs `logits` and `probabilities` (their softmax): float32, batch x classes. Batch norms are folded.
    The same weights give the same bytes. Raises BadInput where the architecture cannot be exported, and LablineError
    where the written file does not pass `onnx.checker`.
    """
    released = _Released(fold_batch_norm(copy.deepcopy(model).cpu())).eval()
    images_NHWC = torch.zeros(2, image_size, image_size, channels, dtype=torch.uint8)
    return write_onnx(released, images_NHWC, path, INPUT, OUTPUTS, type(model.backbone).__name__)


def write_onnx(
    module: nn.Module, samples: torch.Tensor, path: Path, input_name: str, output_names: Sequence[str], called: str
) -> Path:
    """Write a module on the CPU, in evaluation mode, as one ONNX file for any number of samples.

    `samples` are two of them: a batch of one would be taken for a constant, for torch.export specialises on 0 and 1.
    `called` is what an error calls the network. The same weights give the same bytes.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (samples,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[input_name],
                output_names=list(output_names),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise BadInput(
            f"model.architecture: {called} cannot be exported to ONNX: {_reason(error)}. "
            "Expected a forward() without Python branches on tensor values, for any batch size; "
            "try torch.export.export() on it to see the line."
        ) from error
    assert program is not None  # only the old, non-dynamo exporter returns None
    graph = program.model_proto
    _forget_origin(graph)
    _check(graph, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString(deterministic=True))
    return path


class _Released(nn.Module):
    """What a client calls: the classifier with its softmax, its pooling in a form that exports to one node."""

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        # torch 2.14 exports adaptive pooling to one pixel as a dozen Range/Gather nodes, a mean as one.
        for parent in list(classifier.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                    setattr(parent, name, _GlobalAverage())

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits_NK = self.classifier(images)
        return logits_NK, torch.softmax(logits_NK, dim=1)


class _GlobalAverage(nn.Module):
    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        return features_NCHW.mean(dim=(2, 3), keepdim=True)


def _forget_origin(graph: onnx.ModelProto) -> None:
    """Drop stack traces and source paths: they change from machine to machine, and tell clients of our disk."""
    graph.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    graph.graph.ClearField("value_info")
    described = (graph.graph.node, graph.graph.input, graph.graph.output, graph.graph.initializer)
    for part in (part for parts in described for part in parts):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _check(graph: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LablineError(
            f"{path}: the exported graph does not pass onnx.checker: {error}. "
            "This is a fault of the exporter: report it with the architecture, and try other layers meanwhile."
        ) from error


def _reason(error: BaseException) -> str:
    """The first line of the deepest cause: the exporter wraps what really happened in several layers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's deprecation warnings and progress notes; errors still pass."""
    exporter = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [log.level for log in exporter]
    for log in exporter:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(exporter, levels, strict=True):
            log.setLevel(level)
