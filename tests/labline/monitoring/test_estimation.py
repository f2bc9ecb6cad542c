"""Accuracy without labels: right while all is well, and where copies under shift show how the model goes wrong."""

from __future__ import annotations

import numpy as np
import pytest
from saved_reference import answers, shifted_answers

from labline.monitoring.estimation import Estimator, fit_estimator
from labline.monitoring.samples import Samples, reference_samples
from labline.reference import Reference


@pytest.fixture(scope="module")
def plain() -> Estimator:
    return fit_estimator(answers(800, 0))


@pytest.fixture(scope="module")
def informed() -> Estimator:
    return fit_estimator(answers(800, 0), shifted_answers())


def test_in_healthy_windows_the_error_is_small_and_the_interval_holds_the_truth(informed: Estimator) -> None:
    errors, inside = [], []
    for seed in range(10, 22):
        window = reference_samples(answers(500, seed))
        found, truth = informed.estimate(window), window.correct.mean()
        errors.append(abs(found.accuracy - truth))
        inside.append(found.low <= truth <= found.high)
    assert np.mean(errors) < 0.02
    assert np.mean(inside) > 0.8


@pytest.mark.parametrize("noise", [0.08, 0.15, 0.25])
def test_a_shift_between_known_ones_is_estimated_where_confidence_alone_is_fooled(
    plain: Estimator, informed: Estimator, noise: float
) -> None:
    window = reference_samples(answers(600, 7, noise=noise))
    truth, found = window.correct.mean(), informed.estimate(window)
    assert abs(found.accuracy - truth) < 0.05
    assert abs(plain.estimate(window).accuracy - truth) > 0.05
    assert found.low <= truth <= found.high
    assert found.drop_low > 0
    assert sum(share for name, share in found.mixture.items() if name.startswith("noise")) > 0.5


def test_the_drop_counts_from_the_reference(informed: Estimator) -> None:
    reference = reference_samples(answers(800, 0))
    found = informed.estimate(reference)
    assert informed.baseline == pytest.approx(reference.correct.mean())
    assert found.drop == pytest.approx(informed.baseline - found.accuracy)
    assert found.drop_low <= 0 <= found.drop_high
    assert found == informed.estimate(reference)  # the same figures each time


def test_without_embedding_and_shifts_it_is_calibrated_confidence() -> None:
    reference = answers(500, 0)
    found = fit_estimator(type(reference)(reference.rows, reference.outputs, None, reference.features))
    window = reference_samples(answers(300, 1))
    assert found.estimate(window).accuracy == pytest.approx(window.correct.mean(), abs=0.05)
    assert found.domains == ("as tested",)


def with_dents(answered: Reference, share: float) -> Samples:
    """1000 samples, so many of them dents."""
    pool = reference_samples(answered)
    dents, others = np.flatnonzero(pool.label == "dent"), np.flatnonzero(pool.label != "dent")
    return pool.taken(np.concatenate([dents[: int(1000 * share)], others[: 1000 - int(1000 * share)]]))


@pytest.mark.parametrize("share", [0.1, 0.6, 0.8])
def test_other_shares_of_classes_are_no_shift(informed: Estimator, share: float) -> None:
    window = with_dents(answers(3000, 21), share)
    found = informed.estimate(window)
    assert found.accuracy == pytest.approx(window.correct.mean(), abs=0.04)  # 267 dents were tested: 3.5 points
    assert found.low <= window.correct.mean() <= found.high
    assert found.classes["dent"] == pytest.approx(share, abs=0.1)
    assert found.mixture["as tested"] > 0.8


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_shift_is_seen_behind_other_shares_of_classes(informed: Estimator, share: float) -> None:
    window = with_dents(answers(3000, 21, noise=0.2), share)
    found = informed.estimate(window)
    assert found.accuracy == pytest.approx(window.correct.mean(), abs=0.04)
    assert found.drop_low > 0
