"""Screening: a quick classifier that looks for mislabelled samples before the real training."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy.special import softmax

from labline.data.label_issues import FitPredict, Images, Probabilities, Targets
from labline.models import build
from labline.training import fit, predict_logits
from labline.usecase import ImageUseCase, Training

MOST_EPOCHS, FEWEST_EPOCHS = 6, 2
ENOUGH_IMAGES = 120_000  # seen in all: more passes over large data would only cost time
WIDTH = 0.5  # a narrow network learns what is typical and has little room to memorise wrong labels


def screening_classifier(
    declaration: ImageUseCase, classes: int, on_fold: Callable[[int], None] = lambda fold: None
) -> FitPredict:
    """A function `(train images, train targets, other images) -> probabilities of the other images`, N x K.

    `on_fold` is told how many times it was called.
    Trains a narrow `cnn` for a few epochs whatever the declared network is: confident learning needs
    out-of-sample beliefs that rank samples, not the best accuracy (Northcutt et al. 2021, "Confident
    Learning: Estimating Uncertainty in Dataset Labels").
    """
    size, channels = declaration.data.image_size, declaration.data.channels

    fold = itertools.count(1)

    def fit_predict(images: Images, targets: Targets, others: Images) -> Probabilities:
        on_fold(next(fold))
        epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, ENOUGH_IMAGES // len(images)), declaration.training.epochs)
        settings = Training(
            epochs=epochs,
            batch_size=declaration.training.batch_size,
            device=declaration.training.device,
            imbalance="weighted-loss",
        )
        network = build("cnn", channels, classes, size, width=WIDTH)
        held_out = slice(0, max(classes * 8, len(images) // 20))  # fit() wants a validation part; no choice hangs on it
        fitted = fit(network, (images, targets), (images[held_out], targets[held_out]), settings)
        return np.asarray(softmax(predict_logits(fitted.model, others), axis=1), dtype=np.float32)

    return fit_predict
