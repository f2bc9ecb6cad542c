"""A warm start: training goes on from the weights of an earlier model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from labline.errors import BadInput
from labline.models import build
from labline.models.weights import save_weights
from labline.training import fit
from labline.usecase import Training

SIZE = 16
RANDOM = np.random.default_rng(0)
IMAGES = np.concatenate([RANDOM.integers(low, low + 60, (40, SIZE, SIZE, 1), dtype=np.uint8) for low in (0, 150)])
SAMPLES = IMAGES, np.repeat([0, 1], 40)


def network(width: float = 0.25, seed: int = 0) -> torch.nn.Module:
    return build("cnn", 1, 2, SIZE, width=width, seed=seed)


def test_training_goes_on_from_saved_weights(tmp_path: Path) -> None:
    first = fit(network(), SAMPLES, SAMPLES, Training(epochs=3, batch_size=16))
    save_weights(first.model, tmp_path / "model.safetensors")
    still = Training(epochs=1, batch_size=16, learning_rate=1e-12, weight_decay=0)
    warm = fit(network(seed=1), SAMPLES, SAMPLES, still, start_from=tmp_path / "model.safetensors")
    cold = fit(network(seed=1), SAMPLES, SAMPLES, still)
    weights = {
        name: dict(model.model.named_parameters()) for name, model in (("first", first), ("warm", warm), ("cold", cold))
    }
    name = max(weights["first"], key=lambda key: weights["first"][key].numel())
    assert torch.allclose(weights["warm"][name], weights["first"][name], atol=1e-6)
    assert not torch.allclose(weights["cold"][name], weights["first"][name], atol=1e-2)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    first = fit(network(width=0.5), SAMPLES, SAMPLES, Training(epochs=1, batch_size=16))
    save_weights(first.model, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match="holds another network"):
        fit(network(), SAMPLES, SAMPLES, Training(epochs=1), start_from=tmp_path / "model.safetensors")


def test_weights_that_are_gone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        fit(network(), SAMPLES, SAMPLES, Training(epochs=1), start_from=tmp_path / "gone.safetensors")
