"""Weights of a pruned network or a narrower student, back in a network that is declared wider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from labline.errors import LablineError
from labline.models.classifier import ImageClassifier
from labline.models.weights import build_declared
from labline.usecase import ImageUseCase


def load_smaller(path: Path, declaration: ImageUseCase, classes: int) -> ImageClassifier:
    """The classifier at `path`, as `save_weights` wrote it: the declared network with as many channels as it has there.

    On the CPU, in evaluation mode. Raises LablineError where the weights are of another network.
    """
    weights = load_file(path)
    channels = declaration.data.channels
    model = ImageClassifier(build_declared(declaration, classes), torch.zeros(channels), torch.ones(channels))
    reshape(model, weights)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise LablineError(
            f"{path} holds another network than is declared: {error}. Run the compress stage again (--fresh)."
        ) from error
    return model.eval()


def reshape(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Give every layer of the model (in place) the shapes that `weights` have for it, without copying values."""
    for prefix, layer in model.named_modules():
        for name, old in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            new = weights.get(f"{prefix}.{name}" if prefix else name)
            if new is None or new.shape == old.shape:
                continue
            if isinstance(old, nn.Parameter):
                setattr(layer, name, nn.Parameter(torch.empty_like(new), requires_grad=old.requires_grad))
            else:
                setattr(layer, name, torch.empty_like(new))
        _count_channels(layer)


def _count_channels(layer: nn.Module) -> None:
    """Say in the layer's attributes, which its forward() and exporters read, what its tensors say."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if layer.groups > 1 and layer.groups == layer.in_channels:  # depthwise: a group a channel
            layer.groups = layer.weight.shape[0] // (layer.out_channels // layer.in_channels)
        layer.out_channels, layer.in_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.num_features = len(layer.running_mean) if layer.running_mean is not None else layer.num_features
