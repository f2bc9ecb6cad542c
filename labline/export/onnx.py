"""ONNX export."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import onnx
import torch
from torch import nn

from labline.compression.folding import fold_batch_norm
from labline.errors import BadInput, LablineError
from labline.export.onnx_runtime import EMBEDDING, INPUT, OUTPUTS
from labline.models.classifier import ImageClassifier

LARGEST_EMBEDDING = 2048
# Samples that the last layer is looked for with: a number that no other side of a tensor is likely to have.
PROBED = 11

logger = logging.getLogger(__name__)


def export_onnx(model: ImageClassifier, path: Path, image_size: int, channels: int) -> Path:
    """Write the model as one ONNX file and return its path.

    Input `images`: uint8, batch x image_size x image_size x channels, any batch size; the preprocessing is inside.
    Outputs `logits` and `probabilities` (their softmax): float32, batch x classes; and `embedding`, float32, batch x D,
    which is what the linear layer that ran last was given, flattened. It is left out where the network has no such
    layer, and where D is above LARGEST_EMBEDDING: that is a picture, not a summary of one; drift tests have no power in
    so many dimensions, and each stored prediction would weigh more than its image. Batch norms are folded.
    The same weights give the same bytes. Raises BadInput where the architecture cannot be exported, and LablineError
    where the written file does not pass `onnx.checker`.
    """
    folded = fold_batch_norm(copy.deepcopy(model).cpu()).eval()
    images_NHWC = torch.zeros(2, image_size, image_size, channels, dtype=torch.uint8)
    called = type(model.backbone).__name__
    last = _last_linear(folded, images_NHWC[:1])
    if last is not None:
        try:
            outputs = [*OUTPUTS, EMBEDDING]
            return write_onnx(_Released(folded, last).eval(), images_NHWC, path, INPUT, outputs, called)
        except LablineError as error:
            logger.info("the embedding is left out, %s exports only without it: %s", called, error)
    return write_onnx(_Released(folded).eval(), images_NHWC, path, INPUT, OUTPUTS, called)


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


def _last_linear(classifier: ImageClassifier, image_NHWC: torch.Tensor) -> nn.Linear | None:
    """The linear layer that runs last, if what it takes can be the embedding: one row of moderate size a sample."""
    taken: list[tuple[nn.Linear, tuple[torch.Tensor, ...]]] = []
    layers = [layer for layer in classifier.backbone.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: taken.append((layer, inputs))) for layer in layers]
    # A user's own forward() may raise anything; the export that follows says it better.
    with suppress(Exception), torch.inference_mode():
        classifier(image_NHWC.expand(PROBED, -1, -1, -1))
    for hook in hooks:
        hook.remove()
    layer, inputs = taken[-1] if taken else (None, ())
    if not inputs or inputs[0].ndim < 2 or len(inputs[0]) != PROBED or inputs[0][0].numel() > LARGEST_EMBEDDING:
        return None
    return layer


class _Released(nn.Module):
    """What a client calls: the classifier with its softmax, its pooling in a form that exports to one node.

    With `last`, one of its layers, it also answers what that layer was given, one row a sample.
    """

    def __init__(self, classifier: ImageClassifier, last: nn.Linear | None = None) -> None:
        super().__init__()
        self.classifier, self.last = classifier, last
        # torch 2.14 exports adaptive pooling to one pixel as a dozen Range/Gather nodes, a mean as one.
        for parent in list(classifier.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                    setattr(parent, name, _GlobalAverage())

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.last is None:
            logits_NK = self.classifier(images)
            return logits_NK, torch.softmax(logits_NK, dim=1)
        taken: list[torch.Tensor] = []
        with self.last.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0])):
            logits_NK = self.classifier(images)
        return logits_NK, torch.softmax(logits_NK, dim=1), taken[-1].flatten(1).float()


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
