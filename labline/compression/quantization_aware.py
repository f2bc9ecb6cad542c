"""Quantization-aware training: the network learns while it is rounded, where static quantization loses too much.

Jacob et al. 2018, "Quantization and Training of Neural Networks", arXiv:1712.05877, with the steps of activations
learnt too, as Esser et al. 2020 do, "Learned Step Size Quantization", arXiv:1902.08153.
"""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from labline.compression.folding import fold_batch_norm
from labline.errors import LablineError
from labline.models.classifier import ImageClassifier

LEVELS = 255  # steps of an unsigned 8-bit activation
WEIGHT_LEVELS = 64  # on each side of zero: `quantize` leaves weights 7 bits
# They pass values on as they are: rounding before them is rounding after them, and ONNX Runtime rounds before.
_PASSED_THROUGH = (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Dropout, nn.Identity)
_WITH_WEIGHTS = (nn.Conv2d, nn.Linear)


class RoundedActivation(nn.Module):
    """Rounds to 256 values, `scale` apart, of which the first is `low`; both ends and the rest pass gradients on.

    `scale` is learnt: its gradient says where clipping costs more than coarseness, or less (Esser et al. 2020).
    """

    zero_point: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("zero_point", torch.zeros(()))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Any shape to the same shape."""
        damping = (values.numel() * LEVELS) ** -0.5  # the paper's: as large an update as that of a weight
        scale = (self.scale * damping + (self.scale * (1 - damping)).detach()).abs().clamp_min(1e-8)
        steps = (values / scale + self.zero_point).clamp(0, LEVELS)
        rounded: torch.Tensor = (_rounded(steps) - self.zero_point) * scale
        return rounded

    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value that pass."""
        scale, zero_point = abs(float(self.scale.detach())), float(self.zero_point)
        return -zero_point * scale, (LEVELS - zero_point) * scale


class _RoundedWeight(nn.Module):
    """Symmetric 7-bit rounding with a scale a channel, as `quantize` rounds weights."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        largest = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-8)
        scale = largest / WEIGHT_LEVELS
        return _rounded(weight / scale) * scale


def prepare(model: ImageClassifier, images: torch.Tensor) -> ImageClassifier:
    """A copy whose batch norms are folded and which rounds weights and activations, for a short training.

    `images` (uint8 NHWC) show where the values of activations lie to begin with. Raises LablineError where torch.fx
    cannot trace the network.
    """
    prepared = fold_batch_norm(model)
    if not isinstance(prepared.backbone, fx.GraphModule):
        raise LablineError(
            f"{type(model.backbone).__name__} cannot be trained for INT8: torch.fx does not trace it. "
            'Leave "int8-aware" out of compression.passes for this architecture.'
        )
    activations = _insert_rounding(prepared.backbone)
    _set_ranges(prepared, activations, images)
    for layer in prepared.backbone.modules():
        if isinstance(layer, _WITH_WEIGHTS):
            parametrize.register_parametrization(layer, "weight", _RoundedWeight())
    return prepared


def finish(prepared: ImageClassifier) -> ImageClassifier:
    """What `prepare` made and training changed, in place back in float32: rounding ends, its bounds stay.

    `quantize` with "minmax" then finds the bounds that were learnt, since no value lies beyond them.
    """
    backbone = prepared.backbone
    for layer in backbone.modules():
        if isinstance(layer, _WITH_WEIGHTS):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    for name, module in list(backbone.named_children()):
        if isinstance(module, RoundedActivation):
            setattr(backbone, name, nn.Hardtanh(*module.bounds()))
    return prepared.eval()


def _rounded(values: torch.Tensor) -> torch.Tensor:
    """To the nearest whole number, with the gradient of the identity (straight-through, Bengio et al. 2013)."""
    return values + (values.round() - values).detach()


def _insert_rounding(backbone: fx.GraphModule) -> list[RoundedActivation]:
    """Round what every layer with weights is given, where it is computed: pixels for the first one."""
    modules = dict(backbone.named_modules())
    layers = [
        node
        for node in backbone.graph.nodes
        if node.op == "call_module" and isinstance(modules[str(node.target)], _WITH_WEIGHTS)
    ]
    producers: dict[fx.Node, None] = {}
    for node in layers:
        source = node.all_input_nodes[0]
        while source.op == "call_module" and isinstance(modules[str(source.target)], _PASSED_THROUGH):
            source = source.all_input_nodes[0]
        producers[source] = None
    added = []
    for position, source in enumerate(producers):
        name, rounding = f"rounding{position}", RoundedActivation()
        backbone.add_submodule(name, rounding)
        with backbone.graph.inserting_after(source):
            rounded = backbone.graph.call_module(name, (source,))
        source.replace_all_uses_with(rounded, delete_user_cb=lambda user, rounded=rounded: user is not rounded)  # type: ignore[misc]
        added.append(rounding)
    backbone.graph.lint()
    backbone.recompile()
    return added


@torch.no_grad()
def _set_ranges(model: ImageClassifier, activations: list[RoundedActivation], images: torch.Tensor) -> None:
    """Scale and zero point of each, of the smallest and largest value that it meets without rounding."""
    seen: dict[nn.Module, tuple[float, float]] = {}

    def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> torch.Tensor:
        seen[module] = float(inputs[0].min()), float(inputs[0].max())
        return inputs[0]

    hooks = [activation.register_forward_hook(watch) for activation in activations]
    model.eval()(images)
    for hook in hooks:
        hook.remove()
    for activation in activations:
        low, high = min(seen[activation][0], 0.0), max(seen[activation][1], 0.0)
        scale = max(high - low, 1e-6) / LEVELS
        activation.scale.fill_(scale)
        activation.zero_point.fill_(round(-low / scale))
