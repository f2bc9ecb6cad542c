"""Corruptions: they are what they say, repeat with the seed, and leave their input alone."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.corruptions import BLOCK_VALUES, corrupt
from labline.errors import BadInput
from labline.usecase import Corruption, Evaluation

NAMES = get_args(Corruption)
DECLARED = Evaluation().corruptions
names = st.sampled_from(NAMES)


def images(count: int = 4, size: int = 16, channels: int = 1, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


drawn_images = st.builds(images, st.integers(0, 5), st.integers(8, 20), st.sampled_from([1, 3]), st.integers(0, 99))


@given(pixels=drawn_images, name=names)
@settings(deadline=None)
def test_severity_zero_changes_nothing(pixels: npt.NDArray[np.uint8], name: Corruption) -> None:
    corrupted = corrupt(pixels, name, 0.0)
    assert (corrupted == pixels).all()
    assert not np.shares_memory(corrupted, pixels)


@given(pixels=drawn_images, name=names, severity=st.floats(0, 1), seed=st.integers(0, 9))
@settings(deadline=None)
def test_shape_and_dtype_stay_the_input_is_kept_and_the_seed_decides(
    pixels: npt.NDArray[np.uint8], name: Corruption, severity: float, seed: int
) -> None:
    before = pixels.copy()
    pixels.setflags(write=False)  # as a memory-mapped dataset is
    corrupted = corrupt(pixels, name, severity, seed)
    assert (corrupted.shape, corrupted.dtype) == (pixels.shape, np.uint8)
    assert (pixels == before).all()
    assert (corrupt(pixels, name, severity, seed) == corrupted).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_corrupted_alike_whatever_follows_it(name: Corruption) -> None:
    many = images(count=BLOCK_VALUES // 128**2 + 3, size=128)  # more than one block
    assert (corrupt(many, name, 0.5)[:2] == corrupt(many[:2], name, 0.5)).all()
    assert (corrupt(many, name, 0.5)[-1] != many[-1]).any()


def test_noise_has_the_declared_standard_deviation_and_another_draw_with_another_seed() -> None:
    grey = np.full((20, 32, 32, 3), 128, dtype=np.uint8)
    noisy = corrupt(grey, "noise", 0.08)
    assert noisy.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.5)
    assert (corrupt(grey, "noise", 0.08, seed=1) != noisy).any()


@given(severity=st.floats(-1, 1), grey=st.integers(0, 255))
def test_brightness_adds_its_share_and_stops_at_black_and_white(severity: float, grey: int) -> None:
    lit = corrupt(np.full((1, 8, 8, 1), grey, dtype=np.uint8), "brightness", severity)
    assert (np.abs(lit - np.clip(grey + 255 * severity, 0, 255)) <= 0.5 + 1e-3).all()


def test_blur_spreads_one_bright_pixel_as_a_gaussian_of_that_sigma() -> None:
    dot = np.zeros((1, 33, 33, 1), dtype=np.uint8)
    dot[0, 16, 16] = 255
    blurred = corrupt(dot, "blur", 2.0 * 32 / 33)[0, :, :, 0].astype(float)
    peak = 255 / (2 * np.pi * 2.0**2)
    assert blurred[16, 16] == pytest.approx(peak, abs=0.6)
    assert blurred[16, 18] == pytest.approx(peak * np.exp(-0.5), abs=0.6)
    assert (blurred == blurred.T).all()


def test_blur_scales_with_the_image() -> None:
    """The same picture at twice the size is blurred over twice the pixels."""
    small = np.zeros((1, 32, 32, 1), dtype=np.uint8)
    small[:, :, 16:] = 200
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    of_small, of_large = corrupt(small, "blur", 3.0).astype(int), corrupt(large, "blur", 3.0).astype(int)
    assert np.abs(of_large.reshape(32, 2, 32, 2).mean(axis=(1, 3)) - of_small[0, :, :, 0]).max() <= 2


def test_blur_never_mixes_images_or_channels() -> None:
    pixels = np.zeros((3, 16, 16, 3), dtype=np.uint8)
    pixels[1, :, :, 2] = 200
    assert (corrupt(pixels, "blur", 4.0) == pixels).all()


@pytest.mark.parametrize(("name", "severity"), DECLARED.items())
def test_the_default_severities_change_an_image_and_leave_it_readable(name: Corruption, severity: float) -> None:
    texture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1), dtype=np.uint8)
    corrupted = corrupt(texture, name, severity)
    assert (corrupted != texture).any()
    assert np.corrcoef(corrupted.ravel(), texture.ravel())[0, 1] > 0.9


def test_mistakes_are_named() -> None:
    with pytest.raises(BadInput, match="did you mean 'noise'"):
        corrupt(images(), "nois", 0.1)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="blur: severity -1, expected 0 or more"):
        corrupt(images(), "blur", -1.0)
