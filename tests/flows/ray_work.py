"""What the workers of `test_ray_training` train: in a module of its own, because they import it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from labline.data.dataset import MappedImages
from labline.distribution import Distribution
from labline.image_classification import Samples
from labline.models import build
from labline.models.classifier import ImageClassifier
from labline.training import Epoch, Fitted, fit
from labline.usecase import Augmentation, Training

WORKERS = "workers.txt"  # a line of rank and process for each that has worked

HOLD, HELD_EPOCH = "hold", 2  # while there is such a file, the first worker goes no further than this epoch

OnEpoch = Callable[[Epoch], None]


def stripes(samples: int, seed: int) -> Samples:
    """Three classes of noisy 28 x 28 images: stripes of different directions, some rarer than others."""
    random = np.random.default_rng(seed)
    targets = random.choice(3, samples, p=[0.5, 0.3, 0.2])
    rows, columns = np.mgrid[:28, :28] // 4 % 2
    patterns = np.stack([rows, columns, (rows + columns) % 2])[targets] * 60 + 90
    images = (patterns + random.normal(0, 40, patterns.shape)).clip(0, 255).astype(np.uint8)
    return images[..., None], targets


def classify(
    settings: Training,
    augmentation: Augmentation,
    distribution: Distribution,
    checkpoint: Path,
    on_epoch: OnEpoch | None,
) -> Fitted[ImageClassifier]:
    """A network with batch norm on images that are read when they are asked for."""
    sign(distribution, checkpoint)
    images, targets = stripes(301, seed=0)  # a number that no batch divides
    network = build("cnn", channels=1, classes=3, image_size=28, width=0.25)
    train = MappedImages(images, np.arange(len(images))), targets
    validation = stripes(1100, seed=1)

    def report(epoch: Epoch) -> None:
        if on_epoch is not None:
            on_epoch(epoch)
        while epoch.epoch == HELD_EPOCH and (checkpoint.parent / HOLD).exists():
            time.sleep(0.05)

    return fit(network, train, validation, settings, augmentation, checkpoint, report, distribution=distribution)


def sign(distribution: Distribution, checkpoint: Path) -> None:
    """Leave one's process number, for whoever wants to kill it."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with (checkpoint.parent / WORKERS).open("a") as file:
        file.write(f"{distribution.rank} {os.getpid()}\n")
