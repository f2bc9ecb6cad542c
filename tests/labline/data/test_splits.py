from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.data.splits import assign_splits
from labline.errors import BadInput
from labline.usecase import Split

SHARES = Split(train=0.7, validation=0.15, test=0.15, seed=0)


def count(splits: npt.NDArray[np.object_], name: str) -> int:
    return int((splits == name).sum())


def test_without_official_splits_all_three_are_drawn() -> None:
    labels = ["cat"] * 100 + ["dog"] * 300
    splits = assign_splits(labels, [""] * 400, SHARES)
    assert [count(splits, name) for name in ("train", "validation", "test")] == [280, 60, 60]
    assert [count(splits[:100], name) for name in ("train", "validation", "test")] == [70, 15, 15]


def test_official_splits_stand() -> None:
    official = ["train", "validation", "test"] * 20
    assert list(assign_splits(["cat", "dog"] * 30, official, SHARES)) == official


def test_a_missing_validation_is_carved_out_of_train_and_test_stays_test() -> None:
    official = ["train"] * 170 + ["test"] * 30
    splits = assign_splits(["cat", "dog"] * 100, official, SHARES)
    assert (splits[170:] == "test").all()
    assert count(splits[:170], "validation") == 30  # 0.15 / (0.7 + 0.15) of 170


def test_a_missing_test_is_carved_out_of_train_too() -> None:
    official = ["train"] * 170 + ["validation"] * 30
    splits = assign_splits(["cat", "dog"] * 100, official, SHARES)
    assert count(splits, "test") == 30 and count(splits, "validation") == 30


def test_a_share_of_zero_is_not_carved() -> None:
    splits = assign_splits(["cat", "dog"] * 50, [""] * 100, Split(train=0.8, validation=0.2, test=0))
    assert count(splits, "test") == 0 and count(splits, "validation") == 20


def test_a_class_that_is_too_small_is_named() -> None:
    with pytest.raises(BadInput, match="class 'rare' has 2 samples"):
        assign_splits(["common"] * 50 + ["rare"] * 2, [""] * 52, SHARES)


def test_a_class_that_cannot_be_trained_is_named() -> None:
    official = ["train"] * 20 + ["validation"] * 20 + ["test"] * 20
    with pytest.raises(BadInput, match="class 'new'"):
        assign_splits(["cat", "dog"] * 20 + ["new"] * 20, official, SHARES)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(20, 120), min_size=2, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    validation=st.floats(0.1, 0.3),
    test=st.floats(0.1, 0.3),
)
def test_splits_partition_every_class_by_its_share_and_repeat(
    sizes: list[int], seed: int, validation: float, test: float
) -> None:
    shares = Split(train=1 - validation - test, validation=validation, test=test, seed=seed)
    labels = np.repeat([f"class {number}" for number in range(len(sizes))], sizes)
    splits = assign_splits(list(labels), [""] * len(labels), shares)
    assert set(splits) == {"train", "validation", "test"}
    for name, size in zip(sorted(set(labels)), sizes, strict=True):
        of_class = splits[labels == name]
        assert count(of_class, "test") == pytest.approx(test * size, abs=2)
        assert count(of_class, "validation") == pytest.approx(validation * size, abs=2)
    assert (splits == assign_splits(list(labels), [""] * len(labels), shares)).all()
