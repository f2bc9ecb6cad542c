"""Duplicates are found whatever split they hide in, and textures are not taken for copies."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from labline.data import duplicates
from labline.data.dataset import Dataset
from labline.data.duplicates import exact_duplicates, grey_thumbnails, near_duplicates, perceptual_hashes


def dataset_of(images: npt.NDArray[np.uint8], splits: Sequence[str] | None = None) -> Dataset:
    """A dataset of unlike files: every image has a hash of its own."""
    manifest = pd.DataFrame(
        {
            "sample_id": [f"sample-{index}" for index in range(len(images))],
            "split": list(splits) if splits is not None else "train",
            "label": "a",
            "row": np.arange(len(images)),
            "source": "test",
            "sha256": [f"content-{index}" for index in range(len(images))],
            "mean": images.reshape(len(images), -1).mean(axis=1),
            "std": images.reshape(len(images), -1).std(axis=1),
        }
    )
    return Dataset(Path(), manifest, images, ("a",), Path())


def pictures(count: int, seed: int = 0, size: int = 48) -> npt.NDArray[np.uint8]:
    """Smooth random scenes, each unlike the others."""
    noise = np.random.default_rng(seed).standard_normal((count, size, size))
    smooth = ndimage.gaussian_filter(noise, (0, 4, 4))
    scaled = smooth / smooth.std(axis=(1, 2), keepdims=True) * 40 + 128
    return scaled.clip(0, 255).astype(np.uint8)[..., None]


def recompressed(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    stored = io.BytesIO()
    Image.fromarray(image[..., 0]).save(stored, "JPEG", quality=60)
    return np.asarray(Image.open(stored))[..., None]


def test_the_test_copy_stays_then_validation_then_the_first() -> None:
    manifest = pd.DataFrame(
        {
            "sample_id": ["a", "b", "c", "d", "e", "f", "g"],
            "split": ["train", "validation", "test", "train", "train", "validation", "train"],
            "sha256": ["1", "1", "1", "2", "2", "3", "3"],
        }
    )
    found = exact_duplicates(manifest)
    assert found.to_dict("list") == {"sample_id": ["a", "b", "e", "g"], "duplicate_of": ["c", "c", "d", "f"]}


@given(st.lists(st.tuples(st.sampled_from(["train", "validation", "test"]), st.integers(0, 5))))
def test_one_copy_of_each_content_stays(rows: list[tuple[str, int]]) -> None:
    manifest = pd.DataFrame(rows, columns=["split", "sha256"]).assign(sample_id=[str(i) for i in range(len(rows))])
    found = exact_duplicates(manifest)
    left = manifest[~manifest["sample_id"].isin(found["sample_id"])]
    assert sorted(left["sha256"]) == sorted(manifest["sha256"].unique())
    assert set(found["duplicate_of"]) <= set(left["sample_id"])


@pytest.mark.parametrize(
    "reshoot",
    [
        recompressed,
        lambda image: (image * 0.8 + 20).astype(np.uint8),
        lambda image: (image + np.random.default_rng(1).normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8),
    ],
    ids=["jpeg", "darker", "noise"],
)
def test_a_copy_that_was_processed_is_found(reshoot: object) -> None:
    originals = pictures(40)
    copies = np.stack([reshoot(image) for image in originals[:10]])  # type: ignore[operator]
    found = near_duplicates(dataset_of(np.concatenate([originals, copies])))
    assert set(found["sample_id"]) == {f"sample-{index}" for index in range(40, 50)}
    assert set(found["duplicate_of"]) == {f"sample-{index}" for index in range(10)}
    assert (found["correlation"] > 0.96).all() and (found["distance"] <= 8).all()


def test_a_copy_across_splits_leaves_train() -> None:
    originals = pictures(2)
    images = np.stack([recompressed(originals[0]), originals[1], originals[0]])
    found = near_duplicates(dataset_of(images, ["train", "train", "test"]))
    assert found[["sample_id", "duplicate_of"]].to_numpy().tolist() == [["sample-0", "sample-2"]]


def test_patches_of_one_texture_are_no_copies() -> None:
    strip = np.random.default_rng(0).normal(128, 30, (64 * 20, 64 * 20))
    strip = ndimage.gaussian_filter(strip, 1.5) * 4 - 3 * 128
    patches = strip.reshape(20, 64, 20, 64).swapaxes(1, 2).reshape(400, 64, 64, 1)
    assert near_duplicates(dataset_of(patches.clip(0, 255).astype(np.uint8))).empty


def test_colour_images_are_compared_by_their_luma() -> None:
    grey = pictures(5)
    colour = np.concatenate([grey, grey // 2, 255 - grey], axis=-1)
    found = near_duplicates(dataset_of(np.concatenate([colour, colour[:1] + np.uint8(1)])))
    assert found["sample_id"].tolist() == ["sample-5"]


def test_blank_and_equal_images_are_left_to_their_own_checks() -> None:
    blank = np.full((50, 32, 32, 1), 128, np.uint8)
    assert near_duplicates(dataset_of(blank)).empty
    twice = dataset_of(np.repeat(pictures(1), 2, axis=0))
    twice.manifest["sha256"] = "same"
    assert near_duplicates(twice).empty


def test_thousands_of_equal_hashes_do_not_stall_the_search() -> None:
    scene = pictures(1, size=32)[0].astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 3, (5000, 32, 32, 1)).astype(np.float32)
    found = near_duplicates(dataset_of((scene + noise).clip(0, 255).astype(np.uint8)))
    assert len(found) == 4999
    assert found["duplicate_of"].nunique() == 1


@given(st.integers(0, 2**64 - 1), st.integers(0, 15), st.integers(0, 10**9), st.data())
def test_hashes_within_the_radius_share_a_key_however_many_images(
    bits: int, radius: int, images: int, data: st.DataObject
) -> None:
    other = bits
    for bit in data.draw(st.lists(st.integers(0, 63), max_size=radius)):
        other ^= 1 << bit
    both = np.array([bits, other], np.uint64)
    keys = [duplicates._key(both, bands) for bands in duplicates._keys(radius, images)]
    assert any(key[0] == key[1] for key in keys)
    assert len(keys) <= duplicates.MOST_KEYS


def test_the_more_images_the_narrower_the_keys() -> None:
    wide, narrow = (next(duplicates._keys(8, images)) for images in (1_000, 1_000_000))
    assert len(narrow) > len(wide)


def test_an_empty_dataset_has_no_duplicates() -> None:
    one = dataset_of(pictures(1))
    empty = replace(one, manifest=one.manifest.head(0))
    assert exact_duplicates(empty.manifest).empty
    assert list(near_duplicates(empty).columns) == ["sample_id", "duplicate_of", "distance", "correlation"]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([20, 28, 32, 45, 64]))
def test_hashes_ignore_brightness_and_contrast(seed: int, size: int) -> None:
    thumbnails = grey_thumbnails(pictures(3, seed, size))
    assert thumbnails.shape == (3, 32, 32)
    changed = np.bitwise_count(perceptual_hashes(thumbnails) ^ perceptual_hashes(thumbnails * 0.5 + 40))
    assert (changed <= 2).all()  # rounding may turn the two terms at the median


@pytest.mark.skipif("LABLINE_DATA" not in os.environ, reason="needs the real data: set LABLINE_DATA")
def test_steel_textures_are_told_apart() -> None:
    with zipfile.ZipFile(Path(os.environ["LABLINE_DATA"]) / "neu-steel.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][::3]
        opened = (Image.open(io.BytesIO(archive.read(name))).convert("L").resize((64, 64)) for name in names)
        images = np.stack([np.asarray(image) for image in opened])[..., None]
    assert len(near_duplicates(dataset_of(images))) <= 1
