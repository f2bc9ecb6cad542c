"""A part of a batch is augmented as it would be among all of it."""

from __future__ import annotations

from typing import get_args

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.augmentation import augment
from labline.draws import Draws
from labline.usecase import ImageTransform

POLICIES = st.lists(st.sampled_from(get_args(ImageTransform)), unique=True)
ROWS = st.lists(st.integers(0, 11), min_size=1, max_size=12)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=40)
@given(POLICIES, ROWS, st.integers(0, 2**31))
def test_each_image_gets_the_numbers_of_its_place_in_the_batch(
    policy: list[ImageTransform], rows: list[int], seed: int
) -> None:
    batch, places = torch.randn(12, 3, 16, 16, generator=seeded(99)), torch.tensor(rows)
    whole = augment(batch, policy, 0.5, seeded(seed))
    part = augment(batch[places], policy, 0.5, Draws(seeded(seed), 12, places))
    torch.testing.assert_close(part, whole[places])
