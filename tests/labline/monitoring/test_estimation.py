"""Accuracy without labels: right while all is well, and where copies under shift show how the model goes wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_reference import answers, shifted_answers

from labline.monitoring.estimation import Estimator, fit_estimator, mixture_weights
from labline.monitoring.samples import reference_samples


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
    assert informed.baseline == reference.correct.mean()
    assert found.drop == pytest.approx(informed.baseline - found.accuracy)
    assert found.drop_low < 0 < found.drop_high
    assert found == informed.estimate(reference)  # the same figures each time


def test_without_embedding_and_shifts_it_is_calibrated_confidence() -> None:
    reference = answers(500, 0)
    found = fit_estimator(type(reference)(reference.rows, reference.outputs, None, reference.features))
    window = reference_samples(answers(300, 1))
    assert found.estimate(window).accuracy == pytest.approx(window.correct.mean(), abs=0.05)
    assert found.domains == ("as tested",)


@given(shares=st.lists(st.floats(0.05, 1), min_size=4, max_size=4))
@settings(deadline=None, max_examples=30)
def test_a_mixture_of_domains_is_taken_apart(shares: list[float]) -> None:
    domains = np.random.default_rng(0).normal(size=(4, 50))
    true = np.array(shares) / sum(shares)
    assert mixture_weights(true @ domains, domains) == pytest.approx(true, abs=1e-3)
