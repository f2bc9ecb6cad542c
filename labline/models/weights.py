"""Weights on disk: safetensors, never pickle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from labline.errors import BadInput
from labline.models import build
from labline.models.classifier import ImageClassifier

if TYPE_CHECKING:
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


def restore_weights(model: torch.nn.Module, path: Path) -> None:
    """Load every weight and buffer at `path` into `model`, on its device; raises BadInput where they do not fit."""
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"model.start_from: {path} cannot be read ({error}); a version's model.safetensors was expected"
        ) from error
    present = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if present != stored:
        differing = sorted(name for name in present.keys() | stored.keys() if present.get(name) != stored.get(name))
        raise BadInput(
            f"model.start_from: {path} holds another network ({differing[0]} and {len(differing) - 1} more differ); "
            "declare the architecture, width, depth and classes that it was trained with, or start from scratch"
        )
    model.load_state_dict(saved)


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
