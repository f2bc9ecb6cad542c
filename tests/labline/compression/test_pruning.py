"""Pruning removes channels and keeps what the model promises: its inputs, its logits, its frozen layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labline.compression.pruning import prune
from labline.errors import BadInput, LablineError
from labline.models import ImageClassifier, build

IMAGES = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def classifier(backbone: nn.Module) -> ImageClassifier:
    return ImageClassifier(backbone, torch.full((3,), 120.0), torch.full((3,), 60.0))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("architecture", ["cnn", "resnet"])
def test_shipped_networks_shrink_to_multiples_of_eight(architecture: str) -> None:
    model = classifier(build(architecture, 3, 5, 16))
    before = parameters(model)

    pruned = prune(model, 0.3, IMAGES)

    assert parameters(pruned) < 0.7 * before
    assert parameters(model) == before
    assert all(layer.out_channels % 8 == 0 for layer in pruned.modules() if isinstance(layer, nn.Conv2d))
    assert pruned(IMAGES).shape == (4, 5)


def test_the_least_important_channels_leave_and_the_rest_compute_as_before() -> None:
    stem, first, second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 16, 3)
    with torch.no_grad():
        for parameter in (first.weight, first.bias, second.weight.transpose(0, 1)):
            assert parameter is not None
            parameter[::2] = 0  # every other channel does nothing
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    for layer in (second, head):
        layer.requires_grad_(False)  # frozen layers keep their channels
    model = classifier(nn.Sequential(stem, nn.ReLU(), first, nn.ReLU(), second, nn.ReLU(), head)).eval()

    pruned = prune(model, 0.5, IMAGES)

    assert pruned.backbone[2].out_channels == 16  # type: ignore[index, union-attr]
    torch.testing.assert_close(pruned(IMAGES), model(IMAGES))


def test_the_first_layer_keeps_what_later_ones_could_not_see() -> None:
    pruned = prune(classifier(build("cnn", 3, 5, 16)), 0.5, IMAGES)

    channels = [layer.out_channels for layer in pruned.backbone.modules() if isinstance(layer, nn.Conv2d)]
    assert channels == [32, 32, 64, 128]


def test_frozen_layers_stay_whole_and_frozen() -> None:
    model = classifier(build("cnn", 3, 5, 16))
    whitening = model.backbone.get_submodule("whitening").requires_grad_(False)

    pruned = prune(model, 0.3, IMAGES)

    kept = pruned.backbone.get_submodule("whitening")
    assert isinstance(kept, nn.Conv2d) and isinstance(whitening, nn.Conv2d)
    assert torch.equal(kept.weight, whitening.weight)
    assert not kept.weight.requires_grad
    assert all(parameter.requires_grad for name, parameter in pruned.named_parameters() if "whitening" not in name)


def test_layers_too_narrow_for_the_rule_are_left_alone() -> None:
    model = classifier(
        nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 2))
    )

    assert parameters(prune(model, 0.3, IMAGES)) == parameters(model)


def test_what_cannot_be_pruned_is_said() -> None:
    class FixedShape(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.convolution, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 32, 16), nn.Linear(32, 2)

        def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(
                self.convolution(self.stem(images_NCHW)).reshape(-1, 2, 16).reshape(-1, 32)
            )
            return logits

    with pytest.raises(LablineError, match="FixedShape cannot be pruned.*compression.passes"):
        prune(classifier(FixedShape()), 0.3, IMAGES)
    with pytest.raises(BadInput, match="prune_ratios has 1"):
        prune(classifier(FixedShape()), 1.0, IMAGES)
