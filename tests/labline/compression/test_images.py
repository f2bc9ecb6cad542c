"""The search over a declared image classifier: it teaches as declared, and goes on where it was killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from labline.compression.images import CHECKPOINT, Teaching, search_images
from labline.compression.pruning import prune
from labline.compression.quantization_aware import prepare
from labline.data.dataset import Dataset
from labline.models import ImageClassifier
from labline.training import Epoch
from labline.usecase import Compression, Data, ImageUseCase, Model, Training

Stripes = Callable[[int, int], tuple[Any, Any]]
LABELS = ("horizontal", "none", "vertical")


def declared(**compression: object) -> ImageUseCase:
    return ImageUseCase(
        name="stripes",
        title="stripes",
        data=Data(source="surfaces", image_size=16, channels=1),
        model=Model(width=0.25),
        training=Training(epochs=4, batch_size=64, learning_rate=5e-3, ema=0.9, precision="float32", device="cpu"),
        compression=Compression.model_validate({"max_metric_drop": 0.05, **compression}),
    )


@pytest.fixture
def data(stripes: Stripes, tmp_path: Path) -> Dataset:
    images, targets = stripes(500, 1)
    splits = np.repeat(["train", "validation"], [350, 150])
    manifest = pd.DataFrame({"split": splits, "label": np.array(LABELS)[targets], "row": np.arange(500)})
    return Dataset(tmp_path, manifest, images, LABELS, tmp_path / "images.npy")


def test_a_killed_search_goes_on_with_the_epoch_it_was_in(
    trained: ImageClassifier, data: Dataset, tmp_path: Path
) -> None:
    declaration = declared(passes=["prune"], prune_ratios=[0.4], finetune_epochs=3)

    class Killed(BaseException):
        """As a kill is: nothing catches it."""

    def kill(name: str, epoch: Epoch, epochs: int) -> None:
        if epoch.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        search_images(declaration, data, trained, tmp_path, kill, seconds=0.02)
    seen: list[tuple[str, int, bool]] = []
    found = search_images(
        declaration,
        data,
        trained,
        tmp_path,
        lambda name, epoch, epochs: seen.append((name, epoch.epoch, epoch.restored)),
        seconds=0.02,
    )

    assert seen == [("pruned-40", 1, True), ("pruned-40", 2, True), ("pruned-40", 3, False)]
    assert found.candidates.set_index("name").loc["pruned-40", "within_budget"]
    assert not list(tmp_path.glob(f"*{CHECKPOINT}"))


def test_what_is_taught_has_the_declared_length(trained: ImageClassifier, data: Dataset, tmp_path: Path) -> None:
    epochs: dict[str, int] = {}

    def seen(name: str, epoch: Epoch, of: int) -> None:
        epochs[name] = of

    teaching = Teaching(trained, declared(), data, tmp_path, seen)
    images = torch.from_numpy(data.images[:32])
    teaching.finetune(prune(trained, 0.4, images), "pruned")
    teaching.finetune(prepare(trained, images), "rounded")
    student = teaching.teach(0.5, "student")
    untouched = Teaching(trained, declared(finetune_epochs=0), data, tmp_path, seen).finetune(trained, "whole")

    assert epochs == {"pruned": 2, "rounded": 2, "student": 4}
    parameters = [sum(parameter.numel() for parameter in model.parameters()) for model in (student, trained)]
    assert parameters[0] < 0.5 * parameters[1]
    assert untouched is trained
