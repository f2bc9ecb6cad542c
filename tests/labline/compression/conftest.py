"""A small trained model that the compression tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from labline.models import ImageClassifier, build

CLASSES = 3

Samples = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def draw_stripes(samples: int, seed: int) -> Samples:
    """Noisy 16 x 16 images with horizontal stripes (class 0), vertical stripes (1) or none (2)."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, CLASSES, samples)
    wave = 60 * np.sign(np.sin(np.arange(16) * np.pi / 3 + 0.1))
    patterns = np.stack([np.repeat(wave[:, None], 16, 1), np.repeat(wave[None], 16, 0), np.zeros((16, 16))])
    images = 128 + patterns[targets] + random.normal(0, 25, (samples, 16, 16))
    return images.clip(0, 255).astype(np.uint8)[..., np.newaxis], targets


def train_briefly(model: ImageClassifier, steps: int = 30) -> ImageClassifier:
    """A few steps of Adam, enough for a task this easy."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    images, targets = draw_stripes(32 * steps, seed=1)
    model.train()
    for step in range(steps):
        batch = slice(32 * step, 32 * (step + 1))
        loss = torch.nn.functional.cross_entropy(
            model(torch.from_numpy(images[batch])), torch.from_numpy(targets[batch])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def trained() -> ImageClassifier:
    """A network that tells stripes apart."""
    model = ImageClassifier(build("cnn", 1, CLASSES, 16, width=0.25), torch.tensor([128.0]), torch.tensor([50.0]))
    return train_briefly(model, steps=60)


@pytest.fixture(scope="session")
def stripes() -> Callable[[int, int], Samples]:
    """Draws that many images and their classes, from a seed."""
    return draw_stripes


@pytest.fixture(scope="session")
def finetune() -> Callable[[ImageClassifier], ImageClassifier]:
    """Trains a pruned network for a short while."""
    return train_briefly
