from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from labline.series.checks import CHECKED_COLUMNS, checked_columns
from tests.labline.series.market import make_prices


def make_manifest(entities: tuple[str, ...] = ("a",), days: int = 200) -> pd.DataFrame:
    prices = make_prices(days, entities).rename(columns={"date": "timestamp"})
    return prices.assign(timestamp=prices["timestamp"].dt.tz_localize("UTC"), split="train")


def test_a_good_series_shows_nothing() -> None:
    checked = checked_columns(make_manifest(("a", "b")))
    assert set(CHECKED_COLUMNS) <= set(checked)
    assert checked["seconds_since_previous"].isna().sum() == 2
    assert checked["seconds_since_previous"].min() == 86400
    assert checked["missing_steps"].max() == 2  # weekends
    assert checked["rows_of_moment"].max() == 1 and checked["rows_of_split"].unique().tolist() == [200]
    assert checked["missing_values"].max() == checked["unchanged_rows"].max() == checked["range_violation"].max() == 0


def test_each_fault_shows_in_its_column() -> None:
    manifest = make_manifest()
    manifest.loc[10, "volume"] = np.nan
    manifest.loc[20:23, ["open", "high", "low", "close"]] = 50.0
    manifest.loc[30, "high"] = manifest.loc[30, "close"] * 0.9
    manifest.loc[190, "close"] *= 3
    manifest.loc[40, "low"] = -1.0
    checked = checked_columns(manifest)
    assert checked["missing_values"][10] == 1
    assert checked["unchanged_rows"][20:25].tolist() == [0, 1, 2, 3, 0]
    assert checked["range_violation"][30] >= 0.1 - 1e-9
    assert checked["return_score"][190] > 20 and checked["smallest_price"][40] == -1


def test_order_and_duplicates_are_judged_in_the_order_given() -> None:
    manifest = make_manifest(days=10)
    swapped = manifest.iloc[[0, 2, 1, 3, 3]].reset_index(drop=True)
    checked = checked_columns(swapped)
    assert (checked["seconds_since_previous"] < 0).tolist() == [False, False, True, False, False]
    assert checked["seconds_since_previous"].iloc[-1] == 0
    assert checked["rows_of_moment"].tolist() == [1, 1, 1, 2, 2]


@pytest.mark.parametrize("price", ["close", "temperature"])
def test_a_series_without_prices_has_nothing_to_say_of_them(price: str) -> None:
    manifest = make_manifest().drop(columns=["open", "high", "low", "close"])
    checked = checked_columns(manifest, price)
    assert checked[["smallest_price", "range_violation", "unchanged_rows", "return_score"]].isna().all().all()


def test_returns_across_zero_are_differences() -> None:
    manifest = make_manifest().assign(temperature=np.random.default_rng(0).normal(0, 1, 200))
    manifest.loc[150, "temperature"] = 1000.0
    checked = checked_columns(manifest, "temperature")
    assert checked["return_score"].idxmax() in (150, 151) and checked["return_score"][150] > 100


def test_what_a_row_shows_does_not_depend_on_later_rows_or_other_entities() -> None:
    columns = [name for name in CHECKED_COLUMNS if not name.startswith("rows_of")]
    both = make_manifest(("a", "b"))
    whole = checked_columns(both)
    for name, own in both.groupby("entity"):
        alone = checked_columns(own.head(150))
        pd.testing.assert_frame_equal(whole.loc[alone.index, columns], alone[columns], obj=str(name))
