"""expectations/series.json on series with planted faults: each is found and, where it should be, quarantined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from labline.series.checks import checked_columns
from labline.series.declaration import SeriesData
from labline.series.ingest import ingest_series
from tasks.expectation_suite import Validation, check_manifest
from tests.labline.series.market import FEATURES, as_csv, make_prices

SUITE = Path(__file__).parents[2] / "expectations" / "series.json"


def check(manifest: pd.DataFrame, folder: Path) -> Validation:
    return check_manifest(checked_columns(manifest), SUITE, (), folder / "data-docs")


def broken(validation: Validation) -> set[str]:
    failed = validation.results[validation.results["unexpected_count"].fillna(0).gt(0) | ~validation.results["success"]]
    return set(failed["column"])


@pytest.mark.parametrize("name", ["sp500", "nasdaq"])
def test_the_shipped_indices_meet_every_expectation(name: str, tmp_path: Path) -> None:
    validation = check(ingest_series(SeriesData(source=name), FEATURES).manifest, tmp_path)
    assert validation.success and validation.failing.empty and validation.critical.empty


def test_rows_with_faults_go_to_quarantine_and_their_cause_is_named(tmp_path: Path) -> None:
    prices = make_prices(400).drop(index=range(20, 40))
    prices.loc[60, "high"] = prices.loc[60, "low"] / 2
    prices.loc[70, "low"] = 0.0
    prices.loc[100:115, ["open", "high", "low", "close"]] = 99.0
    prices.loc[200, "volume"] = np.nan
    manifest = ingest_series(as_csv(prices, tmp_path), FEATURES).manifest
    validation = check(manifest, tmp_path)
    assert validation.critical.empty  # so few are tolerated
    assert broken(validation) == {
        "missing_steps", "range_violation", "smallest_price", "unchanged_rows", "missing_values"
    }  # fmt: skip
    reasons = validation.failing["reason"].tolist()
    assert len(reasons) == 1 + 1 + 1 + 5 and any("high >= max(open, close)" in reason for reason in reasons)
    kept = manifest.drop(validation.failing.index.unique())
    assert len(kept) == len(manifest) - validation.failing["sample_id"].nunique()


def test_rows_out_of_order_stop_the_flow(tmp_path: Path) -> None:
    manifest = ingest_series(as_csv(make_prices(400), tmp_path), FEATURES).manifest
    validation = check(manifest.iloc[::-1].reset_index(drop=True), tmp_path)
    assert set(validation.critical["column"]) == {"seconds_since_previous"}


def test_many_impossible_prices_stop_the_flow(tmp_path: Path) -> None:
    prices = make_prices(400)
    prices.loc[::10, "low"] = -1.0
    validation = check(ingest_series(as_csv(prices, tmp_path), FEATURES).manifest, tmp_path)
    assert "smallest_price" in set(validation.critical["column"])
