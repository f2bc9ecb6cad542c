"""A mixture of shifts whose classes come in other shares is taken apart, and chance is not taken for either."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.monitoring.mixture import Domains, Mixture, beyond_chance

PRIOR = np.array([0.5, 0.3, 0.2])
CLOSE = 0.001  # so little is left to chance here

shares = st.lists(st.floats(0.05, 1), min_size=4, max_size=4).map(lambda of: np.array(of) / sum(of))
ratios = st.lists(st.floats(0.2, 3), min_size=3, max_size=3).map(lambda of: np.array(of) / (PRIOR @ np.array(of)))


@pytest.fixture(scope="module")
def domains() -> Domains:
    """Four domains of three classes, each with a mean of its own."""
    means_GKM = np.random.default_rng(0).normal(size=(4, 3, 50)) / 7
    return Domains(means_GKM * PRIOR[:, None], np.tile(PRIOR, (4, 1)))


@given(shares_G=shares)
@settings(deadline=None, max_examples=30)
def test_a_mixture_of_shifts_is_taken_apart(domains: Domains, shares_G: np.ndarray) -> None:
    window_M = domains.mean(Mixture(shares_G, np.ones(3)))
    assert domains.shares(window_M, np.ones(3)) == pytest.approx(shares_G, abs=1e-3)


@given(shares_G=shares, ratios_K=ratios)
@settings(deadline=None, max_examples=30)
def test_shares_sum_to_1_and_ratios_average_1_and_none_is_negative(
    domains: Domains, shares_G: np.ndarray, ratios_K: np.ndarray
) -> None:
    window_M = domains.mean(Mixture(shares_G, ratios_K))
    found = domains.shrunk(window_M, domains.fit(window_M, CLOSE), CLOSE)
    assert found.shares.sum() == pytest.approx(1) and found.shares.min() >= 0
    assert PRIOR @ found.ratios == pytest.approx(1) and found.ratios.min() >= 0
    unchanged = domains.distance(window_M, domains.unchanged())
    assert domains.distance(window_M, found) <= unchanged + 1e-9, "never worse than the reference"


@given(ratios_K=ratios)
@settings(deadline=None, max_examples=30)
def test_other_classes_alone_are_found_and_no_shift(domains: Domains, ratios_K: np.ndarray) -> None:
    reference = domains.unchanged()
    window_M = domains.mean(Mixture(reference.shares, ratios_K))
    found = domains.shrunk(window_M, domains.fit(window_M, CLOSE), CLOSE)
    assert found.ratios == pytest.approx(ratios_K, abs=0.02)
    assert found.shares == pytest.approx(reference.shares, abs=0.02)


def test_what_chance_explains_is_the_reference(domains: Domains) -> None:
    reference = domains.unchanged()
    window_M = domains.mean(reference) + 0.001 * np.random.default_rng(1).normal(size=50)
    found = domains.shrunk(window_M, domains.fit(window_M, 0.1), 0.1)
    assert found.shares.tolist() == reference.shares.tolist()
    assert found.ratios.tolist() == reference.ratios.tolist()


def test_shifts_that_suffice_leave_the_classes_as_they_are(domains: Domains) -> None:
    window_M = domains.mean(Mixture(np.array([0.2, 0.0, 0.8, 0.0]), np.ones(3)))
    found = domains.shrunk(window_M, domains.fit(window_M, 0.01), 0.01)
    assert found.ratios == pytest.approx(np.ones(3), abs=0.02)
    assert found.shares == pytest.approx([0.2, 0.0, 0.8, 0.0], abs=0.05)


def test_beyond_chance() -> None:
    assert beyond_chance(0.5, 1.0) == 0.0
    assert beyond_chance(2.0, 1.0) == 0.75
    assert beyond_chance(0.0, 0.0) == 1.0
