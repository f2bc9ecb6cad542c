"""Weights of pruned and narrower networks find their way back into the declared one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from labline.compression.pruning import prune
from labline.compression.reshaping import load_smaller, reshape
from labline.errors import LablineError
from labline.models import ImageClassifier, build
from labline.models.weights import save_weights
from labline.usecase import Data, ImageUseCase, Model, Training

IMAGES = torch.randint(0, 256, (4, 16, 16, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def declared(architecture: str) -> ImageUseCase:
    return ImageUseCase(
        name="small",
        title="small",
        data=Data(source="surfaces", image_size=16, channels=1),
        model=Model(architecture=architecture),
        training=Training(epochs=1),
    )


def classifier(architecture: str, width: float = 1.0) -> ImageClassifier:
    return ImageClassifier(build(architecture, 1, 3, 16, width=width), torch.tensor([99.0]), torch.tensor([9.0])).eval()


@pytest.mark.parametrize("architecture", ["cnn", "resnet"])
def test_a_pruned_and_a_narrower_network_answer_as_before(architecture: str, tmp_path: Path) -> None:
    for smaller in (prune(classifier(architecture), 0.5, IMAGES), classifier(architecture, width=0.5)):
        save_weights(smaller, tmp_path / "smaller.safetensors")

        loaded = load_smaller(tmp_path / "smaller.safetensors", declared(architecture), 3)

        torch.testing.assert_close(loaded(IMAGES), smaller(IMAGES))


def test_depthwise_convolutions_keep_a_group_a_channel() -> None:
    wide, narrow = nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(8, 8, 3, groups=8)

    reshape(wide, narrow.state_dict())

    assert (wide.groups, wide.in_channels, wide.out_channels) == (8, 8, 8)
    wide.load_state_dict(narrow.state_dict())


def test_another_network_is_refused(tmp_path: Path) -> None:
    save_weights(classifier("resnet"), tmp_path / "other.safetensors")

    with pytest.raises(LablineError, match="holds another network than is declared"):
        load_smaller(tmp_path / "other.safetensors", declared("cnn"), 3)
