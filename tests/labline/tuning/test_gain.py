"""Gains: real ones are told from those that choosing among many makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labline.evaluation import classification_metrics, wilson_interval
from labline.tuning.gain import Gain, gain_of
from labline.tuning.predictions import Predictions, load_predictions, on_common_samples, save_predictions
from labline.usecase import UseCase

SAMPLES, CLASSES = 400, 3
Declared = Callable[..., UseCase]


def answers(share_right: float, seed: int, samples: int = SAMPLES) -> Predictions:
    """A classifier of independent luck that is right on so large a share of samples."""
    random = np.random.default_rng(seed)
    targets = np.random.default_rng(0).integers(0, CLASSES, samples)
    right = random.random(samples) < share_right
    said = np.where(right, targets, (targets + 1) % CLASSES)
    return Predictions(
        np.arange(samples).astype(str), np.full((samples, CLASSES), 0.1) + 0.7 * np.eye(CLASSES)[said], targets
    )


def judged(declaration: UseCase, found: list[Predictions]) -> Gain:
    figures = [classification_metrics(each.outputs, each.targets)["accuracy"] for each in found]
    return gain_of(declaration, "accuracy", True, found, int(np.argmax(figures)))


def test_the_best_of_many_equals_flatters_itself_and_is_not_believed(declared: Declared) -> None:
    gain = judged(declared("surface"), [answers(0.8, seed) for seed in range(20)])
    assert gain.difference > 0.02
    assert gain.expected < gain.difference
    assert not gain.is_shown and "within noise" in gain.verdict


def test_a_real_gain_is_shown(declared: Declared) -> None:
    gain = judged(
        declared("surface"), [answers(0.8, 0), *(answers(0.8, seed) for seed in range(1, 5)), answers(0.95, 9)]
    )
    assert gain.is_shown and "more than luck" in gain.verdict
    assert gain.expected == pytest.approx(gain.difference, abs=0.03)
    assert gain.difference_interval[0] < gain.difference < gain.difference_interval[1]
    assert gain.winner_interval == wilson_interval(round(gain.winner * SAMPLES), SAMPLES)


def test_the_declaration_gains_nothing_on_itself(declared: Declared) -> None:
    gain = judged(declared("surface"), [answers(0.95, 0), answers(0.5, 1)])
    assert (gain.difference, gain.expected, gain.is_shown) == (0, 0, False)
    assert gain.verdict == "nothing beat the declaration on 400 validation samples"


def test_a_loss_is_better_where_it_is_lower(declared: Declared) -> None:
    random = np.random.default_rng(1)
    targets = random.normal(-2, 0.4, 500)
    ids = np.arange(500).astype(str)
    outputs = [np.stack([targets + random.normal(0, noise, 500), np.full(500, noise)], axis=1) for noise in (0.4, 0.2)]
    found = [Predictions(ids, each.astype(np.float32), targets.astype(np.float32)) for each in outputs]
    gain = gain_of(declared("volatility"), "qlike", False, found, winner=1)
    assert gain.winner < gain.declared and gain.difference > 0 and gain.is_shown


def test_trials_are_compared_on_the_samples_that_all_of_them_have(tmp_path: Path) -> None:
    first, second = answers(0.8, 0, samples=50), answers(0.8, 1, samples=40)
    save_predictions(second, tmp_path / "1.npz")
    aligned = on_common_samples([first, load_predictions(tmp_path / "1.npz")])
    assert [len(each.ids) for each in aligned] == [40, 40]
    np.testing.assert_array_equal(aligned[0].outputs, first.outputs[:40])
    np.testing.assert_array_equal(aligned[1].targets, second.targets)
