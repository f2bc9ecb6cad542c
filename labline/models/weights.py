"""Weights on disk: safetensors, never pickle."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from labline.models import build
from labline.models.classifier import ImageClassifier
from labline.usecase import ImageUseCase


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write every weight and buffer, preprocessing and temperature included."""
    save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, path)


def load_classifier(path: Path, declaration: ImageUseCase, classes: int) -> ImageClassifier:
    """The declared network with the weights at `path`, on the CPU in evaluation mode."""
    channels = declaration.data.channels
    model = ImageClassifier(build_declared(declaration, classes), torch.zeros(channels), torch.ones(channels))
    model.load_state_dict(load_file(path))
    return model.eval()


def build_declared(declaration: ImageUseCase, classes: int) -> torch.nn.Module:
    """The declared network, freshly initialised from the declared seed."""
    network = declaration.model
    return build(
        network.architecture,
        declaration.data.channels,
        classes,
        declaration.data.image_size,
        network.width,
        network.depth,
        network.options,
        seed=declaration.training.seed,
    )
