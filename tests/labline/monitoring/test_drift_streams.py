"""Drift streams: within their bounds while nothing drifts, beyond them where it does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saved_reference import answers

from labline.monitoring.drift_streams import EMBEDDING, drift_streams, ranks
from labline.monitoring.samples import reference_samples


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_the_mean_rank_of_a_sample_within_itself_is_one_half(values: list[int]) -> None:
    ordered = np.sort(np.array(values, dtype=float))
    assert ranks(ordered, ordered).mean() == pytest.approx(0.5)


def test_scores_are_shares_and_keep_within_their_bounds() -> None:
    streams = drift_streams(reference_samples(answers(800, 0)), tolerance=0.1)
    scores = streams.scores(reference_samples(answers(4000, 1)))
    assert scores.shape == (4000, len(streams.names))
    assert scores.min() >= 0 and scores.max() <= 1
    assert (scores.mean(axis=0) < streams.bounds - 0.05).all()


@pytest.mark.parametrize(
    ("drift", "stream"), [({"light": 0.5}, "mean higher"), ({"noise": 0.4}, f"{EMBEDDING} higher")]
)
def test_a_drift_moves_the_stream_that_is_named_after_it(drift: dict[str, float], stream: str) -> None:
    streams = drift_streams(reference_samples(answers(800, 0)), tolerance=0.1)
    position = streams.names.index(stream)
    moved = streams.scores(reference_samples(answers(500, 2, **drift))).mean(axis=0)
    assert moved[position] > streams.bounds[position] + 0.1


def test_a_feature_that_predictions_lack_has_no_score() -> None:
    streams = drift_streams(reference_samples(answers(100, 0)), tolerance=0.1)
    bare = reference_samples(answers(50, 1))
    bare.features["mean"] = np.full(50, np.nan)
    scores = streams.scores(bare)
    assert np.isnan(scores[:, streams.names.index("mean higher")]).all()
    assert not np.isnan(scores[:, streams.names.index("std higher")]).any()
