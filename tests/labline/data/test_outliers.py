"""Blank images and outliers of brightness and contrast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from labline.data.dataset import Dataset
from labline.data.outliers import blank_images, outliers


def manifest_of(means: npt.ArrayLike, split: str = "train") -> pd.DataFrame:
    values = np.asarray(means, np.float64)
    sample_ids = [f"{split}-{index}" for index in range(len(values))]
    return pd.DataFrame({"sample_id": sample_ids, "split": split, "mean": values, "std": 40.0})


def test_blank_images_are_judged_channel_by_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    images[1] = (255, 0, 0)  # a red screen: flat, though its pixels' overall std is 120
    manifest = pd.DataFrame({"sample_id": ["a", "b", "c"], "row": [2, 1, 0], "std": [60.0, 120.0, 60.0]})
    found = blank_images(Dataset(Path(), manifest, images, ("x",), Path()))
    assert found["sample_id"].tolist() == ["b"]


def test_grey_images_are_judged_by_the_manifest() -> None:
    manifest = pd.DataFrame({"sample_id": ["a", "b"], "row": [0, 1], "std": [0.4, 12.0]})
    found = blank_images(Dataset(Path(), manifest, np.zeros((2, 8, 8, 1), np.uint8), ("x",), Path()))
    assert found.to_dict("records") == [{"sample_id": "a", "std": 0.4}]


def test_an_outlier_names_its_statistic_value_and_score() -> None:
    means = np.random.default_rng(0).normal(128, 5, 200)
    means[7] = 250
    found = outliers(manifest_of(means))
    assert found["sample_id"].tolist() == ["train-7"]
    assert found["statistic"].item() == "mean" and found["value"].item() == 250 and found["score"].item() > 6


def test_the_training_split_says_what_is_normal() -> None:
    random = np.random.default_rng(0)
    train, test = manifest_of(random.normal(128, 5, 50)), manifest_of(random.normal(250, 5, 200), "test")
    found = outliers(pd.concat([train, test], ignore_index=True))
    assert len(found) == 200 and found["sample_id"].str.startswith("test").all()


def test_steady_lighting_makes_no_outlier_of_a_few_grey_levels() -> None:
    assert outliers(manifest_of([100.0] * 10 + [106.0])).empty
    assert len(outliers(manifest_of([100.0] * 10 + [200.0]))) == 1


def test_no_rows_no_outliers() -> None:
    assert outliers(manifest_of([])).empty


@given(st.lists(st.floats(0, 255), max_size=40))
def test_what_stays_has_no_outliers(means: list[float]) -> None:
    manifest = manifest_of(means)
    left = manifest[~manifest["sample_id"].isin(outliers(manifest)["sample_id"])]
    assert outliers(left).empty
