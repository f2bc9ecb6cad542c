"""Parity between the PyTorch model and a session: equal models agree, different ones are counted honestly."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from labline.errors import BadInput
from labline.export.onnx import export_onnx
from labline.export.onnx_runtime import session
from labline.export.parity import parity
from labline.models import ImageClassifier, build


class Brightness(nn.Module):
    """Logits (s, threshold): class 0 above, class 1 below, where s is the mean pixel."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        means_N = images_NCHW.mean(dim=(1, 2, 3))
        return torch.stack([means_N, self.threshold.expand_as(means_N)], dim=1)


GRAYS = np.repeat(np.arange(101, dtype=np.uint8), 8 * 8).reshape(101, 8, 8, 1)


def brightness(threshold: float) -> ImageClassifier:
    return ImageClassifier(Brightness(threshold), torch.zeros(1), torch.ones(1))


def test_a_different_model_is_counted(tmp_path: Path) -> None:
    exported = session(export_onnx(brightness(50.5), tmp_path / "model.onnx", 8, 1))

    found = parity(brightness(60.5), exported, GRAYS)

    assert found.samples == 101
    assert found.decision_agreement == pytest.approx(1 - 10 / 101)  # grays 51 to 60
    assert found.max_abs_difference == pytest.approx(10)
    assert found.unexplained == 10


def test_a_near_tie_counts_as_a_difference_but_is_explained(tmp_path: Path) -> None:
    exported = session(export_onnx(brightness(50.001), tmp_path / "model.onnx", 8, 1))

    found = parity(brightness(49.999), exported, GRAYS)

    assert found.decision_agreement == pytest.approx(100 / 101)
    assert (found.near_ties, found.unexplained) == (1, 0)


def test_of_many_images_samples_are_spread_over_all(tmp_path: Path) -> None:
    exported = session(export_onnx(brightness(50.5), tmp_path / "model.onnx", 8, 1))

    found = parity(brightness(101.0), exported, GRAYS, samples=11)

    assert found.samples == 11
    assert found.decision_agreement == pytest.approx(6 / 11)  # grays 60, 70, 80, 90, 100 differ
    with pytest.raises(BadInput, match="at least one image"):
        parity(brightness(1.0), exported, GRAYS[:0])


@pytest.mark.skipif("LABLINE_DATA" not in os.environ, reason="LABLINE_DATA is unset: no real images here")
@pytest.mark.parametrize("architecture", ["cnn", "resnet"])
def test_float32_decides_alike_on_a_thousand_real_images(architecture: str, tmp_path: Path) -> None:
    with np.load(Path(os.environ["LABLINE_DATA"]) / "pneumoniamnist.npz") as archive:
        images = archive["train_images"][:1000, ..., np.newaxis]
    model = ImageClassifier(build(architecture, 1, 2, 28), torch.tensor([146.0]), torch.tensor([43.0]))
    model.train()(torch.from_numpy(images[:128]))

    found = parity(model, session(export_onnx(model, tmp_path / "model.onnx", 28, 1)), images)

    assert found.samples == 1000
    assert found.max_abs_difference < 1e-4
    assert found.unexplained == 0
    assert found.decision_agreement * 1000 >= 1000 - found.near_ties
