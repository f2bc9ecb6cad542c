"""What a retrained version is compared with: the window that it was made for, and what it knew before."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from labline.feedback import new_id
from labline.monitoring.estimation import fit_estimator
from labline.monitoring.parts import KNOWN, asked_at, of_the_window, with_known
from labline.monitoring.samples import reference_samples
from labline.monitoring.shifts import FAMILY
from labline.reference import Reference

RANDOM = np.random.default_rng(0)


def reference(rows: int, brightness: float, right: float) -> Reference:
    """Two classes, told apart rightly in so many cases, in that light."""
    label = RANDOM.integers(0, 2, rows)
    answered = np.where(RANDOM.random(rows) < right, label, 1 - label)
    outputs = np.where(np.arange(2) == answered[:, None], 0.8, 0.2).astype(np.float32)
    frame = pd.DataFrame({"sample_id": [f"s{row}" for row in range(rows)], "label": label.astype(str)})
    frame = frame.assign(answer=answered.astype(str), confidence=0.8)
    frame = frame.assign(mean=RANDOM.normal(brightness, 5, rows), std=RANDOM.normal(30, 3, rows))
    embedding = RANDOM.normal(brightness / 20, 1, (rows, 4)).astype(np.float32)
    return Reference(frame, outputs, embedding, ("mean", "std"))


def joined(first: Reference, second: Reference) -> Reference:
    assert first.embedding is not None and second.embedding is not None
    return Reference(
        pd.concat([first.rows, second.rows], ignore_index=True),
        np.concatenate([first.outputs, second.outputs]),
        np.concatenate([first.embedding, second.embedding]),
        first.features,
    )


OLD, NEW = reference(300, 100, 0.9), reference(200, 180, 0.8)
BOTH, IS_NEW = joined(OLD, NEW), np.arange(500) >= 300


def test_the_window_is_the_reference() -> None:
    current, known = of_the_window(BOTH, IS_NEW)
    assert known is not None
    pd.testing.assert_frame_equal(current.rows, NEW.rows)
    pd.testing.assert_frame_equal(known.rows, OLD.rows)


def test_a_window_of_a_few_rows_is_none() -> None:
    few = np.arange(500) >= 450
    assert of_the_window(BOTH, few) == (BOTH, None)
    assert of_the_window(BOTH, np.zeros(500, dtype=bool)) == (BOTH, None), "never retrained"


def shifted() -> Reference:
    """The window under one shift, that the version does not stand."""
    dark = reference(200, 20, 0.4)
    return Reference(
        dark.rows.assign(**{FAMILY: "brightness", "severity": -0.5}).assign(sample_id=np.arange(200)),
        dark.outputs,
        dark.embedding,
        dark.features,
    )


def test_should_the_old_days_come_back_their_accuracy_is_known() -> None:
    estimator = fit_estimator(NEW, with_known(shifted(), OLD))
    back = estimator.estimate(reference_samples(reference(400, 100, 0.9)))
    assert abs(back.accuracy - 0.9) < 0.05
    assert any(name.startswith(KNOWN) for name in back.mixture)
    like_the_window = estimator.estimate(reference_samples(reference(400, 180, 0.8)))
    assert abs(like_the_window.accuracy - 0.8) < 0.06


def test_without_shifted_copies_or_another_part_nothing_is_added() -> None:
    assert with_known(None, OLD) is None
    copies = shifted()
    assert with_known(copies, None) is copies


def test_an_id_says_when_it_was_given_out() -> None:
    assert abs(asked_at(new_id(b"the tests' own key of feedback i")) - time.time()) < 60
