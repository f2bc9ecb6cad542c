"""Augmentation: batched, each sample its own draw, all of it decided by the generator."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.augmentation import TRANSFORMS, augment, before_after, mix
from labline.usecase import ImageTransform

POLICIES = st.lists(st.sampled_from(get_args(ImageTransform)), unique=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(samples: int = 64, channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(samples, channels, size, size, generator=seeded(99))


@settings(max_examples=40, deadline=None)
@given(POLICIES, st.floats(0, 1), st.sampled_from([1, 3]), st.integers(0, 2**31))
def test_any_policy_keeps_shape_type_and_input_and_repeats_with_its_seed(
    policy: list[ImageTransform], strength: float, channels: int, seed: int
) -> None:
    batch = images(8, channels, 16)
    untouched = batch.clone()
    augmented = augment(batch, policy, strength, seeded(seed))
    assert augmented.shape == batch.shape
    assert augmented.dtype == batch.dtype
    assert augmented.isfinite().all()
    assert torch.equal(batch, untouched)
    assert torch.equal(augmented, augment(batch, policy, strength, seeded(seed)))


def test_every_declared_transform_exists() -> None:
    assert {*TRANSFORMS, "mixup", "cutmix"} == set(get_args(ImageTransform))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_samples_of_a_batch_are_changed_differently(name: ImageTransform) -> None:
    same = images(1).expand(64, -1, -1, -1)
    augmented = augment(same, [name], 1.0, seeded())
    assert len({sample.numpy().tobytes() for sample in augmented}) > 1


@pytest.mark.parametrize("name", ["crop", "affine", "photometric", "noise", "erase"])
def test_strength_zero_changes_nothing(name: ImageTransform) -> None:
    torch.testing.assert_close(augment(images(), [name], 0.0, seeded()), images(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["flip", "flip-vertical", "rotate90"])
def test_flips_and_quarter_turns_only_move_pixels(name: ImageTransform) -> None:
    augmented = augment(images(), [name], 0.5, seeded())
    assert torch.equal(augmented.flatten(2).sort().values, images().flatten(2).sort().values)


def test_rotate90_reaches_all_four_quarter_turns_about_equally() -> None:
    one = images(1)
    turned = augment(one.expand(400, -1, -1, -1), ["rotate90"], 0.5, seeded())
    counts = [int((turned == one.rot90(k, (-2, -1))).flatten(1).all(dim=1).sum()) for k in range(4)]
    assert sum(counts) == 400
    assert min(counts) > 60


def test_crop_shifts_by_whole_pixels() -> None:
    ramp = torch.arange(32.0).view(1, 1, 1, 32).expand(200, 1, 32, 32)
    shifts = (augment(ramp, ["crop"], 0.5, seeded())[:, 0, 16, 16] - 16).unique()
    assert shifts.tolist() == list(range(-4, 5))


def test_pixel_moving_transforms_take_raw_bytes() -> None:
    pixels = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=seeded())
    assert augment(pixels, ["flip", "rotate90", "crop"], 0.5, seeded()).dtype == torch.uint8


@pytest.mark.parametrize("policy", [["mixup"], ["cutmix"], ["mixup", "cutmix"]])
def test_mixing_gives_probabilities_that_follow_the_pixels(policy: list[ImageTransform]) -> None:
    targets = torch.arange(64) % 4
    flat = targets.float().view(-1, 1, 1, 1).expand(64, 1, 32, 32)  # the image shows its class
    mixed, probabilities = mix(flat, targets, 4, policy, 0.5, seeded(3))
    assert probabilities.shape == (64, 4)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), probabilities @ torch.arange(4.0), atol=1e-4, rtol=1e-4)


def test_mixing_repeats_with_its_seed_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    first = mix(images(), torch.arange(64) % 4, 4, ["cutmix"], 0.5, seeded(7))
    second = mix(images(), torch.arange(64) % 4, 4, ["cutmix"], 0.5, seeded(7))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_without_mixing_targets_stay_class_indices() -> None:
    targets = torch.arange(64) % 4
    mixed, same = mix(images(), targets, 4, ["flip"], 0.5, seeded())
    assert same is targets
    assert torch.equal(mixed, images())


def test_contact_sheet_pairs_are_pixels_again() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    pairs = before_after(pixels, ["flip", "photometric"], 0.5, seed=1)
    assert pairs.before is pixels
    assert pairs.after.shape == pixels.shape
    assert pairs.after.dtype == np.uint8
    assert np.array_equal(before_after(pixels, [], 0.5).after, pixels)
