"""Wrong labels that were planted are found, each judged by a model that did not see it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from labline.data.label_issues import cross_validated_probabilities, find_label_issues
from labline.errors import BadInput, LablineError

LABELS = ("dark", "grey", "light")


def shades(samples: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images whose brightness is their class."""
    random = np.random.default_rng(0)
    targets = random.integers(0, 3, samples)
    images = random.normal(60 + 60 * targets[:, None, None, None], 10, (samples, 8, 8, 1))
    return images.clip(0, 255).astype(np.uint8), targets


def fit_predict(
    images: npt.NDArray[np.uint8], targets: npt.NDArray[np.int64], held_out: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    model = LogisticRegression().fit(images.mean(axis=(1, 2)) / 60, targets)
    probabilities = np.zeros((len(held_out), 3), np.float32)
    probabilities[:, model.classes_] = model.predict_proba(held_out.mean(axis=(1, 2)) / 60)
    return probabilities


def test_planted_errors_are_listed_with_the_right_suggestion() -> None:
    images, true_targets = shades(300)
    wrong = np.arange(0, 300, 20)
    targets = true_targets.copy()
    targets[wrong] = (targets[wrong] + 1) % 3
    manifest = pd.DataFrame({"sample_id": [f"s{index}" for index in range(300)], "split": "train"})

    probabilities = cross_validated_probabilities(images, targets, 3, folds=3, seed=0, fit_predict=fit_predict)
    issues = find_label_issues(probabilities, targets, LABELS, manifest)

    planted = {f"s{index}" for index in wrong}
    assert set(issues["sample_id"]) <= planted and len(issues) >= 0.8 * len(planted)
    true_labels = {f"s{index}": LABELS[target] for index, target in enumerate(true_targets)}
    assert issues["suggested"].tolist() == [true_labels[sample_id] for sample_id in issues["sample_id"]]
    assert issues["quality"].is_monotonic_increasing
    assert issues[["confidence", "quality"]].stack().between(0, 1).all()


def test_no_sample_is_judged_by_a_model_that_saw_it_and_the_seed_decides_the_folds() -> None:
    images = np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1)
    targets = np.arange(60) % 3

    def remember(
        fitted: npt.NDArray[np.uint8], targets: npt.NDArray[np.int64], held_out: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.float32]:
        assert not np.isin(held_out, fitted).any()
        assert np.bincount(targets).tolist() == [15, 15, 15]
        return np.tile(np.float32([fitted.sum() % 7, 7 - fitted.sum() % 7, 0]) / 7, (len(held_out), 1))

    first, again, other = (cross_validated_probabilities(images, targets, 3, 4, seed, remember) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_class_rarer_than_the_folds_is_still_judged() -> None:
    images, targets = shades(90)
    targets = np.where(targets == 2, 1, targets)
    targets[0] = 2
    probabilities = cross_validated_probabilities(images, targets, 3, 3, 0, fit_predict)
    assert np.isfinite(probabilities).all()
    manifest = pd.DataFrame({"sample_id": [str(index) for index in range(90)], "split": "train"})
    assert set(find_label_issues(probabilities, targets, LABELS, manifest)["given"]) <= set(LABELS)


def test_a_class_without_samples_does_no_harm() -> None:
    images, targets = shades(90)
    targets = np.where(targets == 1, 0, targets)
    probabilities = cross_validated_probabilities(images, targets, 3, 3, 0, fit_predict)
    manifest = pd.DataFrame({"sample_id": [str(index) for index in range(90)], "split": "train"})
    assert "grey" not in set(find_label_issues(probabilities, targets, LABELS, manifest)["given"])


def test_too_few_samples_for_the_folds_is_said() -> None:
    images, _ = shades(3)
    with pytest.raises(BadInput, match="Lower cleaning.folds"):
        cross_validated_probabilities(images, np.array([0, 1, 2]), 3, 5, 0, fit_predict)


@pytest.mark.parametrize("answer", [np.ones((1, 3)), np.full((10, 3), 5.0), np.full((10, 3), np.nan)])
def test_an_answer_that_is_no_probability_is_refused(answer: npt.NDArray[np.float64]) -> None:
    images, targets = shades(30)
    with pytest.raises(LablineError, match="fit_predict"):
        cross_validated_probabilities(images, targets, 3, 3, 0, lambda *_: answer.astype(np.float32))
