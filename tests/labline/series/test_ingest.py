"""A user's own file, with everything that is wrong with such files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from labline.data.dataset import QUARANTINE_COLUMNS
from labline.errors import BadInput
from labline.series.declaration import SeriesCleaning, SeriesData, SeriesSplit
from labline.series.ingest import ingest_series, sample_ids, write_ingested
from tests.labline.series.market import FEATURES, as_csv, make_prices, prepare, settings_for


def quarantined(data: SeriesData, folder: Path) -> pd.DataFrame:
    """What the whole chain has put into quarantine."""
    dataset = prepare(data, folder / "dataset")
    return pd.read_parquet(dataset.directory / "quarantine.parquet")


def test_a_good_file_loses_nothing(tmp_path: Path) -> None:
    ingested = ingest_series(as_csv(make_prices(), tmp_path), FEATURES)
    assert len(ingested.manifest) == 200 and ingested.quarantine.empty and ingested.disordered == 0
    assert ingested.manifest["sample_id"].iloc[0] == "only/2020-01-01"
    write_ingested(ingested, tmp_path / "written")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "written" / "manifest.parquet"), ingested.manifest)


def test_text_in_a_number_column_is_quarantined_with_line_and_column(tmp_path: Path) -> None:
    prices = make_prices().astype({"close": object})
    prices.loc[17, "close"] = "1,234.5"
    found = quarantined(as_csv(prices, tmp_path), tmp_path)
    assert list(found.columns) == list(QUARANTINE_COLUMNS)
    assert list(found["reason"]) == ["line 19, column 'close': expected a finite number, found '1,234.5'"]
    assert list(found["sample_id"]) == ["only/2020-01-24"]
    assert found["source"].iloc[0].endswith("prices.csv:19")


def test_duplicate_timestamps_are_quarantined(tmp_path: Path) -> None:
    prices = pd.concat([make_prices(), make_prices(seed=1).iloc[[5]]])
    found = quarantined(as_csv(prices, tmp_path), tmp_path)
    assert list(found["sample_id"]) == ["only/2020-01-08", "only/2020-01-08#2"]
    assert found["reason"].str.contains("their values differ").all()


def test_missing_values_are_quarantined(tmp_path: Path) -> None:
    prices = make_prices()
    prices.loc[[3, 9], "volume"] = np.nan
    assert list(quarantined(as_csv(prices, tmp_path), tmp_path)["reason"]) == ["column 'volume' has no value"] * 2


@pytest.mark.parametrize("price", [0.0, -1.0])
def test_prices_without_a_logarithm_are_quarantined(price: float, tmp_path: Path) -> None:
    prices = make_prices()
    prices.loc[50, "low"] = price
    found = quarantined(as_csv(prices, tmp_path), tmp_path)
    assert found["reason"].tolist() == [f"column 'low': expected a number above 0, for its logarithm; found {price:g}"]


def test_windows_do_not_lead_over_missing_days(tmp_path: Path) -> None:
    prices = make_prices().drop(index=range(60, 90))
    dataset = prepare(as_csv(prices, tmp_path), tmp_path / "dataset")
    assert dataset.manifest["stretch"].tolist() == [1] * 60 + [2] * 110
    # The tenth return of a stretch is the first with a standard deviation; seven windows' rows follow it.
    assert not dataset.manifest["complete"][60 : 60 + 10 + 7].any() and dataset.manifest["complete"][60 + 17]
    assert np.isnan(dataset.targets[57:60]).all()


def test_rows_in_any_order_are_the_same_data(tmp_path: Path) -> None:
    prices = make_prices(entities=("a", "b"))
    mixed = prices.sample(frac=1, random_state=0)
    one, other = (ingest_series(as_csv(table, tmp_path), FEATURES) for table in (prices, mixed))
    pd.testing.assert_frame_equal(one.manifest.drop(columns="line"), other.manifest.drop(columns="line"))
    assert one.disordered == 0 and other.disordered > 100


def test_mixed_time_zones_are_one_time_line_or_quarantined(tmp_path: Path) -> None:
    prices = make_prices().astype({"date": object})
    prices["date"] = [f"{day:%Y-%m-%d}T16:00:00-05:00" for day in prices["date"]]
    prices.loc[3, "date"] = "2020-01-06T22:00:00+01:00"
    prices.loc[7, "date"] = "2020-01-10T16:00:00"
    found = quarantined(as_csv(prices, tmp_path), tmp_path)
    assert list(found["sample_id"]) == ["line 9"]
    assert "some rows name their time zone and others do not" in found["reason"][0]
    kept = pd.read_parquet(tmp_path / "dataset" / "manifest.parquet")
    assert set(kept["timestamp"].dt.hour) == {21} and kept["sample_id"][0] == "only/2020-01-01T21:00Z"


def test_a_constant_column_is_refused_where_it_is_used(tmp_path: Path) -> None:
    prices = make_prices().assign(volume=7.0)
    with pytest.raises(
        BadInput, match=r"prices.csv: the feature 'lag\(difference\(volume\), 2\)' is 0 at all .*leave it"
    ):
        prepare(as_csv(prices, tmp_path), tmp_path / "dataset")
    used = FEATURES.model_copy(update={"inputs": ["log-return(close)"]})
    assert "volume" in prepare(as_csv(prices, tmp_path), tmp_path / "dataset", used).manifest


def test_ten_rows_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"prices.csv has 10 rows; expected at least 63: each of train.*Add rows"):
        ingest_series(as_csv(make_prices(10), tmp_path), FEATURES)


def test_splits_too_short_for_their_embargo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the validation split is empty: 70 rows"):
        ingest_series(as_csv(make_prices(70), tmp_path), FEATURES)


def test_splits_without_a_window_are_refused(tmp_path: Path) -> None:
    prices = make_prices(400)
    prices.loc[340::2, "close"] = np.nan
    data = as_csv(prices, tmp_path)
    with pytest.raises(BadInput, match="the test split has no window of 8 rows"):
        prepare(data, tmp_path / "dataset", cleaning=SeriesCleaning(gaps="keep"))


def test_more_bad_rows_than_allowed_stop_with_the_first(tmp_path: Path) -> None:
    prices = make_prices().astype({"close": object})
    prices.loc[::4, "close"] = "?"
    with pytest.raises(
        BadInput, match=r"50 of 200 rows were refused, more than data.max_rejected = 0.2.*line 2: column"
    ):
        ingest_series(as_csv(prices, tmp_path), FEATURES)
    lenient = settings_for(tmp_path / "prices.csv", max_rejected=0.3)
    assert len(ingest_series(lenient, FEATURES).quarantine) == 50


def test_a_feature_of_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    features = FEATURES.model_copy(update={"inputs": ["log(closed)"]})
    with pytest.raises(BadInput, match="no column of numbers 'closed', which features reads; did you mean 'close'"):
        ingest_series(as_csv(make_prices(), tmp_path), features)


def test_csv_and_parquet_give_the_same_manifest(tmp_path: Path) -> None:
    prices = make_prices(entities=("a", "b"))
    prices.to_parquet(tmp_path / "prices.parquet")
    text = ingest_series(as_csv(prices, tmp_path), FEATURES).manifest
    binary = ingest_series(settings_for(tmp_path / "prices.parquet"), FEATURES).manifest
    own = ["source", "line"]
    pd.testing.assert_frame_equal(text.drop(columns=own), binary.drop(columns=own))


def test_identities_of_intraday_rows_carry_their_time_and_repeats_a_number() -> None:
    times = pd.to_datetime(["2020-01-01T09:30", "2020-01-01T09:30", "2020-01-02T00:00"], utc=True)
    rows = pd.DataFrame({"entity": "a", "timestamp": times})
    assert sample_ids(rows).tolist() == ["a/2020-01-01T09:30Z", "a/2020-01-01T09:30Z#2", "a/2020-01-02T00:00Z"]


def test_no_value_moves_a_boundary(tmp_path: Path) -> None:
    """Not even one so wrong that its row is refused."""
    prices = make_prices().astype({"close": object})
    before = ingest_series(as_csv(prices, tmp_path), FEATURES).manifest.set_index("sample_id")["split"]
    prices.loc[range(150, 180), "close"] = "?"
    after = ingest_series(as_csv(prices, tmp_path), FEATURES).manifest.set_index("sample_id")["split"]
    assert len(after) == 170 and after.equals(before[after.index])


def test_the_shipped_index_is_split_by_declared_days() -> None:
    split = SeriesSplit.model_validate({"train_until": "2010-12-31", "validation_until": "2013-12-31"})
    manifest = ingest_series(SeriesData(source="sp500", split=split), FEATURES).manifest
    assert manifest.groupby("split")["timestamp"].min().dt.year.to_dict() == {
        "train": 1999, "embargo": 2010, "validation": 2011, "test": 2014,
    }  # fmt: skip
