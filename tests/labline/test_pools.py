"""What production shows, and what a released file answers to it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saved_versions import CHANNELS, LABELS, SIZE

from labline.data import surfaces
from labline.drifting import Drift
from labline.packaged_model import PROBABILITIES, open_model
from labline.pools import (
    NEW_CLASS,
    Shown,
    accuracy,
    answered,
    least_harmful,
    shown,
    with_another_truth,
    with_blank_frames,
    with_new_class,
)
from labline.replay import held_out


@pytest.fixture
def pool() -> Shown:
    made = surfaces.render(200, 16, 0)
    return Shown(made.images, np.array(made.true_labels, dtype=object))


def test_a_replay_becomes_a_pool(pool: Shown) -> None:
    names = [str(number) for number in range(len(pool.truths))]
    samples = held_out(pool.images, list(pool.truths), names, Drift(), seed=3)
    again = shown(samples, 200, (16, 16, 1))
    assert sorted(again.truths) == sorted(pool.truths)
    # Every image once, with its own truth.
    known = {image.tobytes(): truth for image, truth in zip(pool.images, pool.truths, strict=True)}
    assert [known[image.tobytes()] for image in again.images] == list(again.truths)


@given(share=st.floats(0, 1))
def test_faults_and_new_classes_concern_their_share(share: float) -> None:
    pool = Shown(np.arange(200 * 64, dtype=np.uint8).reshape(200, 8, 8, 1), np.array(["good"] * 200, dtype=object))
    new = with_new_class(pool, share)
    assert (new.truths == NEW_CLASS).sum() == pytest.approx(200 * share, abs=1)
    untouched = new.truths != NEW_CLASS
    assert np.array_equal(new.images[untouched], pool.images[untouched])
    blank = with_blank_frames(pool, share, seed=0)
    assert list(blank.truths) == list(pool.truths)
    assert (blank.images.std(axis=(1, 2, 3)) < 2).sum() == pytest.approx(200 * share, abs=1)


def test_a_new_class_is_made_of_four_images(pool: Shown) -> None:
    collage = with_new_class(pool, 1.0).images
    assert np.array_equal(collage[0, :8, :8], pool.images[0, :8, :8])
    assert np.array_equal(collage[0, :8, 8:], pool.images[150, :8, 8:])
    assert np.array_equal(collage[0, 8:, 8:], pool.images[50, 8:, 8:])


def test_concept_drift_changes_truths_alone(pool: Shown) -> None:
    drifted = with_another_truth(pool, 0.25)
    assert drifted.images is pool.images
    assert (drifted.truths != pool.truths).mean() == pytest.approx(0.25, abs=0.02)


def test_answers_are_those_of_the_released_file(versions: dict[str, Path], images: np.ndarray) -> None:
    model = open_model(versions["fp32"])
    truths = np.array((LABELS * 13)[: len(images)], dtype=object)
    pool = Shown(images, truths)
    found = answered(pool, model.labels, lambda part: (model.answer(part, (PROBABILITIES,))[0], None))
    expected = model.predict(images)
    assert images.shape[1:] == (SIZE, SIZE, CHANNELS) and len(found) == len(images)
    np.testing.assert_allclose(found.outputs, expected, atol=1e-6)
    assert accuracy(found) == np.mean([LABELS[k] == truth for k, truth in zip(expected.argmax(1), truths, strict=True)])
    np.testing.assert_allclose(found.features["mean"], images.reshape(len(images), -1).mean(axis=1), rtol=1e-5)


def test_the_least_harmful_level_that_costs_enough() -> None:
    tried = []

    def cost(level: float) -> float:
        tried.append(level)
        return level / 10

    assert least_harmful((0.2, 0.4, 0.6, 0.8), cost, wanted=0.05) == 0.6
    assert tried == [0.2, 0.4, 0.6]
    assert least_harmful((0.2, 0.4), cost, wanted=0.05) == 0.4
    assert list(islice(tried, 3, None)) == [0.2, 0.4]
