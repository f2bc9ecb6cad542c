"""Quantization-aware training rounds as the exported file will, and leaves plain float32 layers behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from labline.compression.quantization_aware import RoundedActivation, finish, prepare
from labline.errors import LablineError
from labline.models import ImageClassifier, build

Stripes = Callable[[int, int], tuple[Any, Any]]


def test_activations_take_256_values_and_weights_129(trained: ImageClassifier, stripes: Stripes) -> None:
    images = torch.from_numpy(stripes(64, 2)[0])
    seen: list[torch.Tensor] = []

    prepared = prepare(trained, images)
    rounding = [module for module in prepared.modules() if isinstance(module, RoundedActivation)]
    rounding[1].register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        prepared(images)

    layers = [layer for layer in prepared.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(rounding) == len(layers)
    assert 1 < len(seen[0].unique()) <= 256
    assert all(len(layer.weight[0].unique()) <= 129 for layer in layers)


def test_gradients_pass_the_rounding_and_reach_its_step() -> None:
    rounded, values = RoundedActivation(), torch.tensor([0.4, 3.0, 500.0], requires_grad=True)

    rounded(values).sum().backward()

    assert values.grad is not None and values.grad.tolist() == [1.0, 1.0, 0.0]  # beyond the last step nothing moves
    assert rounded.scale.grad is not None and float(rounded.scale.grad) > 0  # a larger step would clip less


def test_what_is_left_is_the_float32_network_within_the_bounds_that_were_learnt(
    trained: ImageClassifier, stripes: Stripes
) -> None:
    calibration, images = (torch.from_numpy(stripes(64, seed)[0]) for seed in (2, 3))

    finished = finish(prepare(trained, calibration))

    assert not any(isinstance(module, RoundedActivation) for module in finished.modules())
    with torch.inference_mode():
        torch.testing.assert_close(finished(calibration), trained(calibration), rtol=1e-3, atol=0.1)
        assert (finished(images).argmax(dim=1) == trained(images).argmax(dim=1)).float().mean() > 0.98


def test_residual_networks_can_be_prepared_and_untraceable_ones_are_refused(stripes: Stripes) -> None:
    images = torch.from_numpy(stripes(8, 2)[0])

    class Branching(nn.Module):
        def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
            return images_NCHW.flatten(1) if images_NCHW.sum() > 0 else -images_NCHW.flatten(1)

    residual = ImageClassifier(build("resnet", 1, 3, 16), torch.tensor([128.0]), torch.tensor([50.0])).eval()
    with torch.inference_mode():
        rounded, plain = prepare(residual, images)(images), residual(images)
    assert torch.nn.functional.cosine_similarity(rounded, plain, dim=0).min() > 0.9
    with pytest.raises(LablineError, match="Branching cannot be trained for INT8.*compression.passes"):
        prepare(ImageClassifier(Branching(), torch.zeros(1), torch.ones(1)), images)
