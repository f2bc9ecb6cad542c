from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.errors import BadInput
from labline.series.declaration import SeriesSplit
from labline.series.splits import assign_splits


def make_rows(days: int, entities: tuple[str, ...] = ("a",), start: str = "2020-01-01") -> pd.DataFrame:
    times = pd.date_range(start, periods=days, tz="UTC")
    return pd.concat([pd.DataFrame({"entity": name, "timestamp": times}) for name in entities], ignore_index=True)


def test_shares_are_of_the_days_with_an_embargo_at_the_end_of_train_and_validation() -> None:
    splits = assign_splits(make_rows(20), SeriesSplit(train=0.5, validation=0.25), 2, "UTC")
    assert list(splits) == ["train"] * 8 + ["embargo"] * 2 + ["validation"] * 3 + ["embargo"] * 2 + ["test"] * 5


def test_declared_days_are_the_last_of_their_split() -> None:
    rows = make_rows(10)
    split = SeriesSplit(train_until=date(2020, 1, 4), validation_until=date(2020, 1, 6))
    assert list(assign_splits(rows, split, 0, "UTC")) == ["train"] * 4 + ["validation"] * 2 + ["test"] * 4


def test_a_day_ends_where_the_data_lives() -> None:
    rows = pd.DataFrame({"entity": "a", "timestamp": pd.date_range("2020-01-01", periods=72, freq="h", tz="UTC")})
    split = SeriesSplit(train_until=date(2020, 1, 1), validation_until=date(2020, 1, 2))
    assert (assign_splits(rows, split, 0, "America/New_York") == "train").sum() == 24 + 5


@given(st.integers(1, 12))
def test_with_an_embargo_of_the_horizon_no_target_reaches_into_the_next_split(embargo: int) -> None:
    """Entities of very different density, shuffled: each has its own embargo, the boundary is everyone's."""
    daily = make_rows(200, ("daily",))
    sparse = make_rows(200, ("sparse",)).iloc[::7]
    rows = pd.concat([daily, sparse], ignore_index=True)
    mixed = rows.sample(frac=1, random_state=0)
    splits = pd.Series(assign_splits(mixed, SeriesSplit(train=0.5, validation=0.4), embargo, "UTC"), mixed.index)
    splits = splits.sort_index()
    boundary = rows.loc[splits == "validation", "timestamp"].min()
    for _, own in rows.groupby("entity"):
        last = own.index[splits[own.index] == "train"].max()
        assert rows.loc[min(last + embargo, own.index[-1]), "timestamp"] < boundary
    assert rows.loc[splits == "train", "timestamp"].max() < boundary
    assert rows.loc[splits == "validation", "timestamp"].max() < rows.loc[splits == "test", "timestamp"].min()


def test_rows_of_one_moment_stand_in_one_split() -> None:
    rows = make_rows(20)
    twice = pd.concat([rows, rows], ignore_index=True)
    splits = assign_splits(twice, SeriesSplit(train=0.5, validation=0.25), 2, "UTC")
    np.testing.assert_array_equal(splits[:20], splits[20:])
    np.testing.assert_array_equal(splits[:20], assign_splits(rows, SeriesSplit(train=0.5, validation=0.25), 2, "UTC"))


def test_an_empty_split_is_refused() -> None:
    split = SeriesSplit(train_until=date(2019, 1, 4), validation_until=date(2020, 1, 6))
    with pytest.raises(BadInput, match="the train split is empty: 10 rows from 2020-01-01"):
        assign_splits(make_rows(10), split, 1, "UTC")
