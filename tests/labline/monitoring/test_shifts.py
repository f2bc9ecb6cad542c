"""Shifted copies: every shift of every image, with the labels that belong to them."""

from __future__ import annotations

import numpy as np

from labline.data.storing import pixel_statistics
from labline.monitoring.shifts import MOST_IMAGES, SHIFTS, shifted_images, shifted_reference


def bright_or_dark(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A model that looks at brightness alone, and its embedding."""
    mean, std = pixel_statistics(images)
    bright = (mean > 100).astype(np.float32) * 0.8 + 0.1
    return np.stack([1 - bright, bright], axis=1), np.stack([mean, std], axis=1)


def test_every_image_is_answered_under_every_shift() -> None:
    images = np.random.default_rng(0).integers(40, 120, (9, 16, 16, 1), dtype=np.uint8)
    found = shifted_reference(images, np.arange(9) % 2, ("dark", "bright"), bright_or_dark)
    shifts = sum(len(severities) for severities in SHIFTS.values())
    assert len(found.rows) == len(found.outputs) == 9 * shifts
    assert found.embedding is not None and len(found.embedding) == 9 * shifts
    assert found.rows.groupby(["shift", "severity"])["label"].apply(list).map(tuple).nunique() == 1
    lit = found.rows[(found.rows["shift"] == "exposure") & (found.rows["severity"] == 1.0)]
    assert (lit["answer"] == "bright").all()


def test_exposure_is_in_stops_and_a_gradient_leaves_the_middle_alone() -> None:
    grey = np.full((1, 9, 9, 3), 60, dtype=np.uint8)
    shifted = {(family, severity): images for family, severity, images in shifted_images(grey)}
    assert (shifted["exposure", 1.0] == 120).all()
    tilted = shifted["gradient", 1.0]
    assert (tilted[:, :, 0] == 30).all() and (tilted[:, :, 4] == 60).all() and (tilted[:, :, 8] == 120).all()
    assert (shifted["contrast", 0.5] == grey).all()
    assert (grey == 60).all()


def test_of_many_images_an_even_part_is_used() -> None:
    images = np.zeros((2000, 8, 8, 1), dtype=np.uint8)
    found = shifted_reference(images, np.zeros(2000, dtype=int), ("dark", "bright"), bright_or_dark)
    assert found.rows["sample_id"].nunique() == MOST_IMAGES
    assert found.rows["sample_id"].max() == 1999
