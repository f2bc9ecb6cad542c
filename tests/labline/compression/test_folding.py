"""Folding batch norms changes no logit beyond rounding, and leaves alone what it cannot fold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labline.compression.folding import fold_batch_norm
from labline.models import ImageClassifier, build

IMAGES = torch.randint(0, 256, (16, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def classifier(backbone: nn.Module) -> ImageClassifier:
    """An untrained model whose batch norms have seen data."""
    model = ImageClassifier(backbone, torch.full((3,), 120.0), torch.full((3,), 60.0))
    model.train()(IMAGES)
    return model


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


@torch.inference_mode()
def largest_difference(model: ImageClassifier, other: ImageClassifier) -> float:
    return float((model.eval()(IMAGES) - other(IMAGES)).abs().max())


@pytest.mark.parametrize("architecture", ["cnn", "resnet"])
def test_shipped_networks_lose_every_batch_norm_and_no_accuracy(architecture: str) -> None:
    model = classifier(build(architecture, 3, 5, 16))

    folded = fold_batch_norm(model)

    assert (batch_norms(model) > 0, batch_norms(folded)) == (True, 0)
    assert largest_difference(model, folded) < 1e-4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), channels=st.integers(1, 12), bias=st.booleans())
def test_any_batch_norm_after_a_convolution_folds(seed: int, channels: int, bias: bool) -> None:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    model = classifier(nn.Sequential(nn.Conv2d(3, channels, 3, bias=bias), norm, nn.ReLU(), nn.Flatten()))

    folded = fold_batch_norm(model)

    assert batch_norms(folded) == 0
    assert largest_difference(model, folded) < 1e-4


def test_a_batch_norm_after_pooling_stays() -> None:
    model = classifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.Flatten()))

    folded = fold_batch_norm(model)

    assert batch_norms(folded) == 1
    assert largest_difference(model, folded) < 1e-4


def test_a_convolution_used_twice_is_not_folded_into_one_of_its_norms() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
            once = self.norm(self.convolution(images_NCHW))
            features_NCHW: torch.Tensor = self.convolution(once)
            return features_NCHW.flatten(1)

    model = classifier(Shared())

    assert largest_difference(model, fold_batch_norm(model)) < 1e-4


def test_an_untraceable_network_is_returned_unfolded() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())

        def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.layers(images_NCHW)
            return features if features.sum() > 0 else -features

    model = classifier(Branches())

    folded = fold_batch_norm(model)

    assert batch_norms(folded) == 1
    assert largest_difference(model, folded) == 0
