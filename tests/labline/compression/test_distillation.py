"""A student takes on what its teacher answers, also where the labels say otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labline.compression.distillation import Distillation, distil
from labline.models import ImageClassifier, build
from labline.training import Epoch, predict_logits
from labline.usecase import Augmentation, Training

Stripes = Callable[[int, int], tuple[Any, Any]]
SETTINGS = Training(epochs=3, batch_size=64, learning_rate=5e-3, precision="float32", device="cpu")


def test_the_student_learns_from_the_teacher_though_labels_are_scrambled(
    trained: ImageClassifier, stripes: Stripes
) -> None:
    images, targets = stripes(1200, 1)
    scrambled = np.random.default_rng(0).permutation(targets)
    validation = stripes(200, 4)

    student = distil(
        build("cnn", 1, 3, 16, width=0.125), trained, (images, scrambled), validation, SETTINGS, Augmentation()
    )

    assert (predict_logits(student, validation[0]).argmax(axis=1) == validation[1]).mean() > 0.9
    torch.testing.assert_close((student.mean, student.std), (trained.mean, trained.std))


def test_the_teacher_itself_has_nothing_to_learn(trained: ImageClassifier, stripes: Stripes) -> None:
    samples = stripes(64, 1)
    objective = Distillation(
        build("cnn", 1, 3, 16), trained, samples, samples, SETTINGS, Augmentation(), torch.device("cpu")
    )
    images_BCHW, targets = objective.batch(torch.arange(64), torch.Generator().manual_seed(0))

    taught_BK = targets[:, 3:]
    agreeing, opposing = objective.loss(taught_BK, targets), objective.loss(-taught_BK, targets)

    assert images_BCHW.shape == (64, 1, 16, 16)
    assert float(agreeing) < 0.1 < 1 < float(opposing)


def test_an_interrupted_distillation_goes_on_where_it_was(
    trained: ImageClassifier, stripes: Stripes, tmp_path: Path
) -> None:
    train, validation = stripes(300, 1), stripes(50, 4)

    class Killed(Exception):
        pass

    def kill(epoch: Epoch) -> None:
        if epoch.epoch == 2 and not epoch.restored:
            raise Killed

    def run(on_epoch: Callable[[Epoch], None], checkpoint: Path | None) -> ImageClassifier:
        student = build("cnn", 1, 3, 16, width=0.125)
        return distil(student, trained, train, validation, SETTINGS, Augmentation(), checkpoint, on_epoch)

    with pytest.raises(Killed):
        run(kill, tmp_path / "checkpoint.pt")
    seen: list[bool] = []
    resumed = run(lambda epoch: seen.append(epoch.restored), tmp_path / "checkpoint.pt")
    whole = run(lambda epoch: None, None)

    assert seen == [True, True, False]
    torch.testing.assert_close(predict_logits(resumed, validation[0]), predict_logits(whole, validation[0]))
