"""Manifests of any length, made up: what validation and cleaning see of a large data set of images."""

from __future__ import annotations

import numpy as np
import pandas as pd

LABELS = tuple(f"class {number}" for number in range(10))
BROKEN = 0.001  # the share of rows with a fault, of each of three kinds
COPIES = 0.01  # the share of rows that repeat the content of another in the same split


def made_up(rows: int, seed: int = 0) -> pd.DataFrame:
    """A manifest of `rows` samples in ten classes, 80 % of them for training.

    Of a thousand rows one has no mean, one is too narrow and one is of an unknown class; ten are copies of their
    neighbours, and the brightness of one in ten thousand lies far outside.
    """
    generator = np.random.default_rng(seed)
    split_N = np.repeat(["train", "validation", "test"], [rows - 2 * (rows // 10), rows // 10, rows // 10])
    content_N = np.arange(rows)
    content_N[1:] -= generator.random(rows - 1) < COPIES
    content_N = np.where(split_N == np.roll(split_N, 1), content_N, np.arange(rows))
    mean_N = generator.normal(120, 25, rows).clip(1, 254)
    mean_N[generator.random(rows) < BROKEN / 10] = 254.5
    manifest = pd.DataFrame(
        {
            "sample_id": [f"{number:09d}.jpg" for number in range(rows)],
            "split": split_N.astype(object),
            "label": np.array(LABELS, object)[generator.integers(0, len(LABELS), rows)],
            "row": np.arange(rows),
            "source": "made up",
            "sha256": [f"{number:064x}" for number in content_N],
            "width": np.full(rows, 64),
            "height": np.full(rows, 64),
            "bytes": generator.integers(500, 5000, rows),
            "mean": mean_N,
            "std": generator.normal(50, 8, rows).clip(3, 120),
        }
    )
    faults = generator.random((3, rows)) < BROKEN
    manifest.loc[faults[0], "mean"] = np.nan
    manifest.loc[faults[1], "width"] = 4
    manifest.loc[faults[2], "label"] = "unheard of"
    return manifest
