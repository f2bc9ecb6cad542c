"""Label issues: samples whose label a model that never saw them firmly disagrees with.

Confident learning (Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset
Labels") by cleanlab, on predictions made by cross-validation. Hand it training and validation samples
only: looking for errors where the model errs, in the test split, would flatter the test figures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
from cleanlab import filter as confident_learning
from cleanlab.rank import get_label_quality_scores
from sklearn.model_selection import StratifiedKFold

from labline.errors import BadInput, LablineError

Images = npt.NDArray[np.uint8]
Targets = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]
FitPredict = Callable[[Images, Targets, Images], Probabilities]


def cross_validated_probabilities(
    images: Images, targets: Targets, classes: int, folds: int, seed: int, fit_predict: FitPredict
) -> Probabilities:
    """Class probabilities of every sample, each from a model that was fitted without it.

    `images` is uint8 NHWC, `targets` int64 class indices; `fit_predict(images, targets, held_out)` fits a
    fresh model and returns the probabilities of the held-out images, n x classes. Folds are stratified and
    follow from `seed`. Returns float32, N x classes.

    Raises BadInput where no class has a sample for each fold, LablineError where `fit_predict` returns
    anything but a finite row of probabilities a held-out image.
    """
    largest = int(np.bincount(targets, minlength=1).max())
    if largest < folds:
        raise BadInput(
            f"cleaning.folds = {folds} needs a class of at least {folds} samples; the largest has {largest}. "
            f'Lower cleaning.folds, or set cleaning.label_issues = "off".'
        )
    probabilities_NK = np.empty((len(targets), classes), np.float32)
    with warnings.catch_warnings():
        # A class with fewer samples than folds is absent from some: its samples then just look less certain.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(targets, targets))
    for fitted, held_out in splits:
        predicted = np.asarray(fit_predict(images[fitted], targets[fitted], images[held_out]))
        _check_probabilities(predicted, len(held_out), classes)
        probabilities_NK[held_out] = predicted
    return probabilities_NK


def find_label_issues(
    probabilities: Probabilities, targets: Targets, labels: tuple[str, ...], manifest: pd.DataFrame
) -> pd.DataFrame:
    """Samples that confident learning holds for mislabelled, the worst first: the review list.

    `probabilities` (N x classes, from `cross_validated_probabilities`), `targets` and the rows of
    `manifest` belong together. Returns `sample_id`, `split`, `given` and `suggested` class names,
    `confidence` (probability of the suggestion) and `quality` (probability of the given label), 0 to 1.
    """
    with warnings.catch_warnings():
        # A class of too few samples is judged with the others; that none of its own is flagged is no error.
        warnings.filterwarnings("ignore", message="May not flag all label issues", category=UserWarning)
        issues_N = confident_learning.find_label_issues(targets, probabilities, n_jobs=1)
    suggested_N = probabilities.argmax(axis=1)
    names = np.array(labels, dtype=object)
    report = pd.DataFrame(
        {
            "sample_id": manifest["sample_id"].to_numpy(),
            "split": manifest["split"].to_numpy(),
            "given": names[targets],
            "suggested": names[suggested_N],
            "confidence": probabilities[np.arange(len(targets)), suggested_N],
            "quality": get_label_quality_scores(targets, probabilities, method="self_confidence"),
        }
    )
    worst_first: pd.DataFrame = report[issues_N].sort_values(["quality", "sample_id"], ignore_index=True)
    return worst_first


def _check_probabilities(predicted: npt.NDArray[np.floating], samples: int, classes: int) -> None:
    if predicted.shape != (samples, classes):
        raise LablineError(
            f"cross-validation expects {samples} x {classes} probabilities from fit_predict, got {predicted.shape}"
        )
    if not np.isfinite(predicted).all() or not np.allclose(predicted.sum(axis=1), 1, atol=1e-3):
        raise LablineError(
            "cross-validation expects finite probabilities that sum to 1: does fit_predict apply softmax?"
        )
