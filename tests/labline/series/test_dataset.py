from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labline.series.cleaning import clean_series
from labline.series.dataset import (
    Description,
    SeriesDataset,
    Windows,
    complete_windows,
    open_series,
    scaling,
    series_digest,
    windows,
    write_series,
)
from labline.series.declaration import SeriesCleaning, SeriesData
from labline.series.ingest import ingest_series
from tests.labline.series.market import FEATURES, as_csv, make_prices, prepare, settings_for


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SeriesDataset:
    folder = tmp_path_factory.mktemp("two")
    return prepare(as_csv(make_prices(300, ("a", "b")), folder), folder / "dataset")


def test_what_is_written_is_opened(dataset: SeriesDataset) -> None:
    opened = open_series(dataset.directory)
    assert opened.description == Description(tuple(FEATURES.inputs), 8, "realized-volatility", 3, "close", ("a", "b"))
    assert isinstance(opened.features, np.memmap) and opened.features.dtype == np.float32
    assert opened.features.shape == (600, 5) and opened.targets.shape == (600,) and len(opened.manifest) == 600


def test_a_batch_is_the_rows_up_to_the_present_and_the_target_ahead(dataset: SeriesDataset) -> None:
    samples = windows(dataset, "train")
    inputs_NTF, targets_N = samples.batch([0, 5, len(samples) - 1])
    assert inputs_NTF.shape == (3, 8, 5) and inputs_NTF.dtype == targets_N.dtype == np.float32
    end = samples.indices[5]
    np.testing.assert_array_equal(inputs_NTF[1], dataset.features[end - 7 : end + 1])
    assert targets_N[1] == dataset.targets[end]
    close = dataset.manifest["close"].to_numpy()[end : end + 4]
    assert targets_N[1] == pytest.approx(0.5 * np.log(252 * np.mean(np.diff(np.log(close)) ** 2)), rel=1e-5)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_windows_are_whole_of_one_entity_and_of_their_split(split: str, dataset: SeriesDataset) -> None:
    samples = windows(dataset, split)  # type: ignore[arg-type]
    inputs_NTF, targets_N = samples.batch(np.arange(len(samples)))
    assert np.isfinite(inputs_NTF).all() and np.isfinite(targets_N).all()
    entity = dataset.manifest["entity"].to_numpy()
    assert (entity[samples.indices - 7] == entity[samples.indices + 3]).all()
    assert set(entity[samples.indices]) == {"a", "b"}
    assert set(dataset.manifest["split"].to_numpy()[samples.indices]) == {split}


def test_no_training_target_reaches_what_validation_sees_or_forecasts(dataset: SeriesDataset) -> None:
    for earlier, later in (("train", "validation"), ("validation", "test")):
        for entity in ("a", "b"):
            own = (dataset.manifest["entity"] == entity).to_numpy()
            last = max(end for end in windows(dataset, earlier).indices if own[end])  # type: ignore[arg-type]
            first = min(end for end in windows(dataset, later).indices if own[end])  # type: ignore[arg-type]
            assert last + FEATURES.horizon < first - FEATURES.window + 1


def test_targets_reach_into_no_other_split_where_cleaning_emptied_the_embargo(tmp_path: Path) -> None:
    prices = make_prices(300)
    ingested = ingest_series(as_csv(prices, tmp_path), FEATURES)
    manifest = ingested.manifest[ingested.manifest["split"] != "embargo"]
    cleaned = clean_series(manifest, SeriesCleaning(gaps="keep"), FEATURES.columns)
    write_series(cleaned, FEATURES, tmp_path / "dataset")
    dataset = open_series(tmp_path / "dataset")
    split = dataset.manifest["split"].to_numpy()
    for name in ("train", "validation"):
        ends = windows(dataset, name).indices
        assert (split[ends + FEATURES.horizon] == name).all()


def test_the_latest_rows_can_be_forecast_before_their_target_is_known(dataset: SeriesDataset) -> None:
    known, every = windows(dataset, "test"), windows(dataset, "test", targets=False)
    assert len(every) == len(known) + 2 * FEATURES.horizon
    assert np.isnan(every.batch([len(every) - 1])[1]).all()


def test_scaling_is_of_the_rows_that_training_windows_hold(dataset: SeriesDataset) -> None:
    samples = windows(dataset, "train")
    rows = np.unique((samples.indices[:, None] - np.arange(8)).ravel())
    found = scaling(samples)
    np.testing.assert_allclose(found.mean, dataset.features[rows].mean(axis=0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(found.std, dataset.features[rows].std(axis=0, dtype=np.float64), rtol=1e-5)
    targets = dataset.targets[samples.indices].astype(np.float64)
    assert (found.target_mean, found.target_std) == pytest.approx((targets.mean(), targets.std()))


def test_scaling_of_a_small_variation_on_a_large_level_is_exact() -> None:
    values = (1e6 + np.random.default_rng(0).normal(0, 1, 5000)).astype(np.float32)
    samples = Windows(values[:, None], values, np.arange(9, 5000), 10)
    assert scaling(samples).std[0] == pytest.approx(values.astype(np.float64).std(), rel=1e-5)


def test_a_window_with_a_missing_feature_is_not_complete() -> None:
    features_NF = np.zeros((10, 2), np.float32)
    features_NF[4, 1] = np.nan
    stretch = np.array([0] * 8 + [1] * 2)
    assert np.flatnonzero(complete_windows(features_NF, stretch, 2)).tolist() == [1, 2, 3, 6, 7, 9]


def test_csv_and_parquet_give_the_same_data_set(tmp_path: Path) -> None:
    prices = make_prices(300, ("a", "b"))
    prices.to_parquet(tmp_path / "prices.parquet")
    one = prepare(as_csv(prices, tmp_path), tmp_path / "one")
    other = prepare(settings_for(tmp_path / "prices.parquet"), tmp_path / "other")
    assert series_digest(one) == series_digest(other)
    np.testing.assert_array_equal(one.features, other.features)


def test_the_digest_changes_with_a_value_and_with_the_declaration(tmp_path: Path) -> None:
    prices = make_prices(300)
    before = series_digest(prepare(as_csv(prices, tmp_path), tmp_path / "before"))
    longer = FEATURES.model_copy(update={"horizon": 4})
    assert before != series_digest(prepare(as_csv(prices, tmp_path), tmp_path / "longer", longer))
    prices.loc[100, "close"] += 0.01
    assert before != series_digest(prepare(as_csv(prices, tmp_path), tmp_path / "after"))


def test_windows_of_ten_million_rows_are_gathered_without_reading_the_rest(tmp_path: Path) -> None:
    """A sparse file of 400 MB: only the pages that are asked for ever come into memory."""
    path = tmp_path / "features.npy"
    features_NF = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(10_000_000, 10))
    features_NF[-60:] = np.arange(600).reshape(60, 10)
    features_NF.flush()
    opened = np.load(path, mmap_mode="r")
    samples = Windows(opened, np.zeros(10_000_000, np.float32), np.arange(59, 10_000_000), 60)
    inputs_NTF, _ = samples.batch([len(samples) - 1, 0])
    assert inputs_NTF.shape == (2, 60, 10) and inputs_NTF[0, 0, 0] == 0 and inputs_NTF[0, -1, -1] == 599
    assert not inputs_NTF[1].any()
    assert path.stat().st_blocks * 512 < 4_000_000


@pytest.mark.parametrize("name", ["sp500", "nasdaq"])
def test_the_shipped_indices_become_data_sets(name: str, tmp_path: Path) -> None:
    dataset = prepare(SeriesData(source=name), tmp_path)
    assert len(windows(dataset, "train")) > 3400 and len(windows(dataset, "test")) > 700
    volatility = np.exp(windows(dataset, "train").batch(np.arange(3400))[1])
    assert 0.05 < np.median(volatility) < 0.3 and volatility.max() < 1.5  # annualized, of an index
