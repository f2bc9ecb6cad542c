"""The two-sample test sees differences of place and of spread, keeps its level, and repeats."""

from __future__ import annotations

import numpy as np

from labline.monitoring.two_sample import two_sample_test


def embeddings(count: int, seed: int, centre: float = 0.0, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, spread, (count, 16)).astype(np.float32)


def test_the_same_place_is_rarely_called_different() -> None:
    small = [two_sample_test(embeddings(60, seed), embeddings(60, 100 + seed)).p < 0.05 for seed in range(40)]
    assert sum(small) <= 6  # 2 expected


def test_another_place_and_another_spread_are_seen() -> None:
    for other in (embeddings(200, 1, centre=0.4), embeddings(200, 1, spread=1.4)):
        found = two_sample_test(embeddings(200, 0), other)
        assert found.p == 1 / 500
        assert found.discrepancy > 2 * found.expected


def test_large_windows_cost_no_more_and_the_figure_repeats() -> None:
    many = embeddings(20_000, 1)
    assert two_sample_test(embeddings(300, 0), many) == two_sample_test(embeddings(300, 0), many)
