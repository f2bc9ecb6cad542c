"""Which sample trains, which validates, which tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.data.dataset import SplitName
from labline.errors import BadInput
from labline.usecase import Split


def assign_splits(labels: Sequence[str], official: Sequence[str], shares: Split) -> npt.NDArray[np.object_]:
    """The split of every sample, N names; `labels` and `official` are N names as well.

    A source's `official` splits stand. Those that it lacks ("validation", "test", or both) are carved out of
    its training samples and its unassigned ones (""), stratified by label, in the proportions of `shares`.
    The result depends on the order of the samples and on `shares.seed` alone. Raises BadInput where a class is too
    small to be in every split that is carved, and where nothing or not every class is left to train on.
    """
    names = np.asarray(labels, dtype=object)
    splits = np.asarray(official, dtype=object)
    splits[splits == ""] = "train"
    left = shares.train + sum(_share(shares, name) for name in _lacking(splits, shares))
    for name in _lacking(splits, shares):
        pool = np.flatnonzero(splits == "train")
        _refuse_small_classes(names, splits, ["train"], shares, least=2)
        splits[pool[_stratified(names[pool], _share(shares, name) / left, shares.seed)]] = name
        _refuse_small_classes(names, splits, ["train", name], shares, least=1)
        left -= _share(shares, name)
    _refuse_small_classes(names, splits, ["train"], shares, least=1)
    return splits


def _share(shares: Split, name: SplitName) -> float:
    share: float = getattr(shares, name)
    return share


def _lacking(splits: npt.NDArray[np.object_], shares: Split) -> list[SplitName]:
    carved: tuple[SplitName, ...] = ("test", "validation")
    return [name for name in carved if _share(shares, name) > 0 and not (splits == name).any()]


def _stratified(labels: npt.NDArray[np.object_], fraction: float, seed: int) -> npt.NDArray[np.int64]:
    """Sorted positions of about `fraction` of the labels, every class by its share."""
    from sklearn.model_selection import StratifiedShuffleSplit

    classes = len(np.unique(labels))
    count = min(max(round(fraction * len(labels)), classes), len(labels) - classes)
    shuffle = StratifiedShuffleSplit(n_splits=1, test_size=count, random_state=seed)
    _, chosen = next(shuffle.split(np.zeros(len(labels)), labels))
    return np.sort(chosen)


def _refuse_small_classes(
    labels: npt.NDArray[np.object_], splits: npt.NDArray[np.object_], required: Sequence[str], shares: Split, least: int
) -> None:
    """Raise BadInput naming the class that has fewer than `least` samples in one of the `required` splits."""
    counts = pd.crosstab(labels, splits).reindex(columns=list(required), fill_value=0)
    small = counts[(counts < least).any(axis=1)]
    if small.empty:
        return
    name, total = small.index[0], int((labels == small.index[0]).sum())
    more = f" (and {len(small) - 1} classes more)" if len(small) > 1 else ""
    raise BadInput(
        f"class {name!r} has {total} samples{more}: too few to be in every split, with data.split = "
        f"{{ train = {shares.train:g}, validation = {shares.validation:g}, test = {shares.test:g} }} and the splits "
        "that the source brings. Add samples, leave the class out, or give the splits yourself."
    )
