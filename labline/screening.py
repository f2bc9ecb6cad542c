"""Screening: a quick classifier that looks for mislabelled samples before the real training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from labline.models import build
from labline.training import fit, predict_logits
from labline.usecase import Training, UseCase

EPOCHS = 6
WIDTH = 0.5  # a narrow network learns what is typical and has little room to memorise wrong labels

Images = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.int64]


def screening_classifier(
    declaration: UseCase, classes: int
) -> Callable[[Images, Classes, Images], npt.NDArray[np.float64]]:
    """A function `(train images, train targets, other images) -> probabilities of the other images`, N x K.

    Trains a narrow `cnn` for a few epochs whatever the declared network is: confident learning needs
    out-of-sample beliefs that rank samples, not the best accuracy (Northcutt et al. 2021, "Confident
    Learning: Estimating Uncertainty in Dataset Labels").
    """
    settings = Training(
        epochs=min(EPOCHS, declaration.training.epochs),
        batch_size=declaration.training.batch_size,
        device=declaration.training.device,
        imbalance="weighted-loss",
    )
    size, channels = declaration.data.image_size, declaration.data.channels

    def fit_predict(images: Images, targets: Classes, others: Images) -> npt.NDArray[np.float64]:
        network = build("cnn", channels, classes, size, width=WIDTH)
        held_out = slice(0, max(classes * 8, len(images) // 20))  # fit() wants a validation part; no choice hangs on it
        fitted = fit(network, (images, targets), (images[held_out], targets[held_out]), settings)
        return np.asarray(softmax(predict_logits(fitted.model, others), axis=1), dtype=np.float64)

    return fit_predict
