"""Drift to order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.corruptions import corrupt
from labline.drifting import PHOTOGRAPHED, RENDERED, Drift, check_photographed, drifted, mixed, parse_drift
from labline.errors import BadInput

LABELS = ("crazing", "patches", "scratches")
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)


def test_words_become_levels_and_shares() -> None:
    drift = parse_drift(["lighting=0.6", "noise=0.1", "mix=crazing:0.5,patches:0.2"], RENDERED, LABELS, ramp=100)
    assert drift == Drift({"lighting": 0.6, "noise": 0.1}, {"crazing": 0.5, "patches": 0.2}, 100)
    assert [drift.progress(sent) for sent in (0, 50, 100, 500)] == [0, 0.5, 1, 1]
    assert Drift().progress(0) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lightning=0.6"], "did you mean 'lighting'"),
        (["lighting"], "expected NAME=VALUE"),
        (["lighting=much"], "'much' is no number"),
        (["lighting=nan"], "is no number"),
        (["noise=0.1", "noise=0.2"], "each name once"),
        (["mix=scratch:0.5"], "did you mean 'scratches'"),
        (["mix=crazing:0.6,patches:0.6"], "make 1.2"),
        (["mix=crazing:-0.1"], "make -0.1"),
        (["mix=crazing:0.2,patches:0.2,scratches:0.2"], "shares that make 1"),
        (["mix=crazing"], "expected NAME=VALUE"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        parse_drift(words, RENDERED, LABELS)


@given(
    usual=st.lists(st.floats(0.1, 100), min_size=3, max_size=3),
    share=st.floats(0, 1),
    progress=st.floats(0, 1),
)
def test_shares_stay_shares_and_the_others_keep_their_proportions(
    usual: list[float], share: float, progress: float
) -> None:
    weights = dict(zip(LABELS, usual, strict=True))
    shares = mixed(weights, Drift(mix={"crazing": share}), progress)
    before = usual[0] / sum(usual)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["crazing"] == pytest.approx(before + progress * (share - before))
    assert shares["patches"] * usual[2] == pytest.approx(shares["scratches"] * usual[1])


def test_images_drift_by_corruptions_and_by_exposure() -> None:
    assert np.array_equal(drifted(IMAGES, Drift(), 1.0, seed=0), IMAGES)
    twice = drifted(IMAGES, Drift({"lighting": 1.0}), 1.0, seed=0)
    assert np.array_equal(twice, (IMAGES.astype(int) * 2).clip(0, 255))
    half_way = drifted(IMAGES, Drift({"noise": 0.2}), 0.5, seed=3)
    assert np.array_equal(half_way, corrupt(IMAGES, "noise", 0.1, seed=3))


def test_what_images_cannot_have_is_refused() -> None:
    check_photographed(parse_drift(["brightness=-0.2", "lighting=-1", "blur=2"], PHOTOGRAPHED, LABELS))
    for word in ("blur=-1", "noise=2", "lighting=9"):
        with pytest.raises(BadInput, match="expected a number from"):
            check_photographed(parse_drift([word], PHOTOGRAPHED, LABELS))
