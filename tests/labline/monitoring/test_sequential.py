"""Sequential evidence: rarely wrong however often it is looked at, quick where something changed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from labline.monitoring.sequential import advance, detect, log_payoffs, mixed

BOUND = np.array([0.1])


def wrong(shares: list[tuple[int, float]], seed: int = 0) -> np.ndarray:
    """Answers that are wrong, 1, or right, 0: so many at each rate, one after the other."""
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.random(count) < rate for count, rate in shares]).astype(float)[:, None]


def test_looking_after_every_prediction_raises_few_false_alarms() -> None:
    """At the very bound, the worst that is still all right: at most 5 % of 400 horizons, at any of 500 looks each."""
    horizon, walks = 500, 400
    scores = (np.random.default_rng(0).random((horizon, walks)) < BOUND).astype(float)
    payoffs = log_payoffs(scores.reshape(-1, 1), BOUND).reshape(horizon, walks, 1, -1)
    value = np.full(payoffs.shape[1:], -np.inf)
    alarmed = np.zeros(walks, dtype=bool)
    for look in range(horizon):
        value = advance(value, payoffs[look : look + 1], horizon)
        alarmed |= logsumexp(value, axis=(1, 2)) - np.log(value[0].size) >= np.log(1 / 0.05)
    assert alarmed.mean() <= 0.05


def test_a_change_is_seen_soon_and_dated() -> None:
    for seed in range(5):
        found = detect(wrong([(3000, 0.05), (300, 0.3)], seed), BOUND, horizon=100_000)
        assert found.log_value > np.log(1 / 0.05)
        assert abs(found.start - 3000) < 60


def test_long_good_times_do_not_hide_what_comes_after() -> None:
    short, long = (detect(wrong([(good, 0.02), (300, 0.3)]), BOUND, 100_000) for good in (100, 20_000))
    assert long.log_value > short.log_value - 3


def test_of_many_streams_the_one_that_moved_is_named() -> None:
    scores = np.hstack([wrong([(500, 0.05)], seed=1), wrong([(300, 0.05), (200, 0.6)], seed=2)])
    assert detect(scores, np.array([0.1, 0.1]), 10_000).stream == 1


@given(cuts=st.lists(st.integers(1, 199), max_size=5), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=40)
def test_how_predictions_are_parcelled_into_looks_changes_nothing(cuts: list[int], seed: int) -> None:
    scores = wrong([(200, 0.2)], seed)
    payoffs = log_payoffs(scores, BOUND)
    value = np.full(payoffs.shape[1:], -np.inf)
    for part in np.split(payoffs, sorted(set(cuts))):
        value = advance(value, part, 1000)
    assert mixed(value) == pytest.approx(detect(scores, BOUND, 1000).log_value)


@given(older=st.integers(1, 500), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=40)
def test_forgetting_old_predictions_never_adds_evidence(older: int, seed: int) -> None:
    scores = wrong([(500, 0.1), (100, 0.3)], seed)
    whole, recent = detect(scores, BOUND, 1000), detect(scores[older:], BOUND, 1000)
    assert recent.log_value <= whole.log_value + 1e-9


def test_predictions_without_a_label_are_as_if_they_were_not_there_but_may_begin_a_game() -> None:
    scores = wrong([(200, 0.4)])
    gaps = np.full((400, 1), np.nan)
    gaps[::2] = scores
    assert 0 <= detect(gaps, BOUND, 1000).log_value - detect(scores, BOUND, 1000).log_value <= np.log(2) + 1e-9


def test_nothing_seen_is_no_evidence() -> None:
    assert detect(np.empty((0, 1)), BOUND, 1000).log_value == -np.inf
