"""A small trained model, one that static quantization ruins, and what the compression tests share beside."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from labline.compression.candidates import Evaluate, Quality, Tried
from labline.compression.conditions import Conditions, Finetune, Teach
from labline.export.onnx import export_onnx
from labline.export.onnx_runtime import onnx_logits, session
from labline.models import ImageClassifier, build
from labline.usecase import Compression

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


def narrow(width: float) -> ImageClassifier:
    """An untrained network."""
    return ImageClassifier(build("cnn", 1, CLASSES, 16, width=width), torch.tensor([128.0]), torch.tensor([50.0]))


@pytest.fixture(scope="session")
def trained() -> ImageClassifier:
    """A network that tells stripes apart."""
    return train_briefly(narrow(0.25), steps=60)


@pytest.fixture(scope="session")
def stripes() -> Callable[[int, int], Samples]:
    """Draws that many images and their classes, from a seed."""
    return draw_stripes


@pytest.fixture(scope="session")
def finetune() -> Finetune:
    """Trains a pruned network for a short while, a rounded one for longer."""
    return lambda network, name: train_briefly(network, steps=120 if name.endswith("aware") else 30)


@pytest.fixture(scope="session")
def teach() -> Teach:
    """Trains a narrower network for a short while."""
    return lambda width, _: train_briefly(narrow(width / 4), steps=60)


@pytest.fixture(scope="session")
def outlier(trained: ImageClassifier) -> ImageClassifier:
    """The same function with one channel a thousand times larger than the others: one scale cannot hold them all."""
    model = copy.deepcopy(trained)
    norm, following = model.get_submodule("backbone.stage1.0.1"), model.get_submodule("backbone.stage2.0.0")
    assert isinstance(norm, torch.nn.BatchNorm2d) and isinstance(following, torch.nn.Conv2d)
    with torch.no_grad():
        norm.weight[0] *= 1000
        norm.bias[0] *= 1000
        following.weight[:, 0] /= 1000
    return model


@pytest.fixture(scope="session")
def judge() -> Callable[[Samples], Evaluate]:
    """Makes a judge of those images and classes."""
    return accuracy_on


def accuracy_on(samples: Samples) -> Evaluate:
    """Judges a function from images to logits by its accuracy on them."""
    images, targets = samples
    return lambda logits: Quality({"accuracy": float((logits(images).argmax(axis=1) == targets).mean())})


@pytest.fixture
def conditions(
    trained: ImageClassifier, finetune: Finetune, tmp_path: Path
) -> Callable[[Compression], tuple[Conditions, Tried]]:
    """The conditions of a search on the trained network, with its fp32 file."""

    def make(settings: Compression) -> tuple[Conditions, Tried]:
        evaluate, samples = accuracy_on(draw_stripes(300, 4)), draw_stripes(64, 5)[0]

        def judged(path: Path) -> Quality:
            return evaluate(lambda images: onnx_logits(session(path), images))

        path = export_onnx(trained, tmp_path / "fp32.onnx", 16, 1)
        float32 = Tried("fp32", path, judged(path))
        until = time.monotonic() + 60 * settings.minutes
        return Conditions(settings, 16, 1, samples, judged, float32.quality, finetune, tmp_path, until), float32

    return make
