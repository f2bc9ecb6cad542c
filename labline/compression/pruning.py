"""Structured pruning: whole channels leave, so that the smaller network is faster on any hardware."""

from __future__ import annotations

import copy
import warnings

import torch
import torch_pruning
from torch import nn

from labline.errors import BadInput, LablineError
from labline.models.classifier import ImageClassifier

# Vector units work on 8 or 16 lanes: a layer of 45 channels costs what one of 48 does.
CHANNEL_MULTIPLE = 8

_Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


def prune(model: ImageClassifier, ratio: float, example: torch.Tensor) -> ImageClassifier:
    """A copy of the model without the least important `ratio` (0 to 1) of the channels of every layer.

    Channels that layers share (residual connections) leave together, by the L2 norm of all their weights; at least that
    many leave as make the rest a multiple of 8. The first layer, the output layer and frozen layers keep theirs: what
    the first one drops no later one can see, and here it alone cost two thirds of what pruning lost. Ranking by Taylor
    expansion, by the scales of batch norms or over all layers at once was tried, and was no better on the shipped
    networks. `example` is a batch of uint8 NHWC images. The result needs fine-tuning.
    Raises BadInput for an impossible ratio, LablineError where the architecture cannot be pruned.
    Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", by its authors' library torch-pruning.
    """
    if not 0 < ratio < 1:
        raise BadInput(f"compression.prune_ratios has {ratio:g}, expected shares of channels between 0 and 1.")
    pruned = copy.deepcopy(model).cpu().eval()
    images_NHWC = example.cpu()
    frozen = {name for name, parameter in pruned.named_parameters() if not parameter.requires_grad}
    try:
        with torch.inference_mode():
            expected = pruned(images_NHWC).shape
        kept = _kept_whole(pruned.backbone, pruned.normalize(images_NHWC), ratio)
        _remove_channels(pruned.backbone, pruned.normalize(images_NHWC), ratio, kept)
        with torch.inference_mode():
            found = pruned(images_NHWC).shape
    # torch-pruning meets any architecture a user may declare, and raises whatever it stumbles over.
    except Exception as error:
        raise _cannot_prune(model, f"{type(error).__name__}: {error}") from error
    if found != expected:
        raise _cannot_prune(model, f"its logits would change from {tuple(expected)} to {tuple(found)}")
    for name, parameter in pruned.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return pruned


def _remove_channels(backbone: nn.Module, features_NCHW: torch.Tensor, ratio: float, kept: list[nn.Module]) -> None:
    backbone.requires_grad_(True)  # layers are traced through autograd, which does not see frozen ones
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_pruning.pruner.BasePruner(
            backbone,
            features_NCHW,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            round_to=CHANNEL_MULTIPLE,
            ignored_layers=kept,
        ).step()


def _kept_whole(backbone: nn.Module, features_NCHW: torch.Tensor, ratio: float) -> list[nn.Module]:
    """Layers that keep all their channels: first, last, frozen ones, those too narrow to leave a multiple of 8."""
    layers = [layer for layer in backbone.modules() if isinstance(layer, _Layer)]
    called: list[nn.Module] = []
    hooks = [layer.register_forward_hook(lambda layer, *_: called.append(layer)) for layer in layers]
    with torch.inference_mode():
        backbone(features_NCHW)
    for hook in hooks:
        hook.remove()
    frozen = [layer for layer in layers if not any(parameter.requires_grad for parameter in layer.parameters())]
    narrow = [layer for layer in layers if layer.weight.shape[0] * (1 - ratio) < CHANNEL_MULTIPLE]
    return [*called[:1], *called[-1:], *frozen, *narrow]


def _cannot_prune(model: ImageClassifier, reason: str) -> LablineError:
    return LablineError(
        f"{type(model.backbone).__name__} cannot be pruned: {reason}. "
        'Leave "prune" out of compression.passes for this architecture.'
    )
