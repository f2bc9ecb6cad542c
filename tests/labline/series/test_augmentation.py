"""Augmentation of windows: batched, each window its own draw, all of it decided by the generator."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.series.augmentation import TRANSFORMS, SeriesTransform, augment, mix

POLICIES = st.lists(st.sampled_from(get_args(SeriesTransform)), unique=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(samples: int = 64, rows: int = 20, features: int = 3) -> torch.Tensor:
    return torch.randn(samples, rows, features, generator=seeded(99))


@settings(max_examples=40, deadline=None)
@given(POLICIES, st.floats(0, 1), st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**31))
def test_any_policy_keeps_shape_type_and_input_and_repeats_with_its_seed(
    policy: list[SeriesTransform], strength: float, rows: int, samples: int, seed: int
) -> None:
    batch, targets = windows(samples, rows), torch.arange(float(samples))
    untouched = batch.clone()
    generator, again = seeded(seed), seeded(seed)
    augmented, mixed = mix(augment(batch, policy, strength, generator), targets, policy, strength, generator)
    assert augmented.shape == batch.shape
    assert mixed.shape == targets.shape
    assert augmented.dtype == mixed.dtype == torch.float32
    assert augmented.isfinite().all()
    assert mixed.isfinite().all()
    assert torch.equal(batch, untouched)
    other, other_mixed = mix(augment(batch, policy, strength, again), targets, policy, strength, again)
    assert torch.equal(augmented, other)
    assert torch.equal(mixed, other_mixed)


def test_every_declared_transform_exists() -> None:
    assert {*TRANSFORMS, "mixup"} == set(get_args(SeriesTransform))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_windows_of_a_batch_are_changed_differently(name: SeriesTransform) -> None:
    augmented = augment(windows(1).expand(64, -1, -1), [name], 1.0, seeded())
    assert len({window.numpy().tobytes() for window in augmented}) == 64


@pytest.mark.parametrize("name", TRANSFORMS)
def test_strength_zero_changes_nothing(name: SeriesTransform) -> None:
    torch.testing.assert_close(augment(windows(), [name], 0.0, seeded()), windows())


def test_scaling_keeps_the_shape_of_each_feature() -> None:
    factors = augment(windows(), ["scaling"], 0.5, seeded()) / windows()
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert factors.std() == pytest.approx(0.1, rel=0.3)


def test_slicing_stretches_the_end_and_keeps_the_last_row() -> None:
    ramp = torch.arange(20.0).view(1, 20, 1).expand(200, -1, -1)
    sliced = augment(ramp, ["slicing"], 1.0, seeded())
    torch.testing.assert_close(sliced[:, -1], ramp[:, -1])
    torch.testing.assert_close(sliced.diff(dim=1), sliced.diff(dim=1)[:, :1].expand(-1, 19, -1))  # still straight
    first = sliced[:, 0, 0]
    assert first.min() >= 0
    assert 8 < first.max() <= 9.5


def test_mixup_blends_targets_as_it_blends_windows() -> None:
    targets = torch.arange(64.0)
    shown = targets.view(-1, 1, 1).expand(-1, 20, 3)
    mixed, blended = mix(shown, targets, ["mixup"], 1.0, seeded(3))
    torch.testing.assert_close(mixed[:, 0, 0], blended)
    assert not torch.equal(blended, targets)
    _, probabilities = mix(shown, torch.eye(64), ["mixup"], 1.0, seeded(3))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(probabilities @ targets, blended)


def test_mixing_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    mix(windows(), torch.zeros(64), ["mixup"], 0.5, seeded())
    assert torch.equal(before, torch.get_rng_state())
