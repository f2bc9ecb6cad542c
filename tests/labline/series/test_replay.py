"""A series replayed: what a client asks at each moment."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from labline.declaration import load_series_usecase
from labline.errors import BadInput
from labline.series.cleaning import clean_series
from labline.series.dataset import SeriesDataset, open_series, write_series
from labline.series.ingest import ingest_series
from labline.series.latest import latest_window, rows_needed
from labline.series.replay import later_rows, moments
from labline.series.usecase import SeriesUseCase


@pytest.fixture(scope="module")
def declaration() -> SeriesUseCase:
    return load_series_usecase("volatility", Path("usecases"))


@pytest.fixture(scope="module")
def series(declaration: SeriesUseCase, tmp_path_factory: pytest.TempPathFactory) -> SeriesDataset:
    """The data set of `labline run volatility`."""
    ingested = ingest_series(declaration.data, declaration.features)
    features = declaration.features
    cleaned = clean_series(ingested.manifest, declaration.cleaning, ingested.values, features.positive_columns)
    folder = tmp_path_factory.mktemp("series")
    write_series(cleaned, features, folder)
    return open_series(folder)


def test_the_test_split_is_asked_in_order_and_its_targets_are_the_truth(
    series: SeriesDataset, declaration: SeriesUseCase
) -> None:
    rows = series.manifest
    samples = list(later_rows(rows, declaration))
    assert len(samples) == moments(rows, declaration)
    for sample in samples[:: len(samples) // 7]:
        row = int(rows.index[rows["sample_id"] == sample.name][0])
        asked = json.loads(sample.body)["rows"]
        assert len(asked) == rows_needed(declaration)
        assert asked[-1]["close"] == rows["close"].iloc[row]
        window_TF = latest_window({name: [each[name] for each in asked] for name in asked[0]}, declaration)
        assert np.array_equal(window_TF, series.features[row - declaration.features.window + 1 : row + 1])
        if sample.truth is not None:
            assert sample.truth == pytest.approx(float(series.targets[row]))
    horizon = declaration.features.horizon
    assert {sample.known_after for sample in samples[:-horizon]} == {horizon}
    assert [sample.truth for sample in samples[-horizon:]] == [None] * horizon


def test_it_can_begin_at_any_day(series: SeriesDataset, declaration: SeriesUseCase) -> None:
    samples = later_rows(series.manifest, declaration, date(2008, 9, 1))
    first = next(samples)
    assert first.name.startswith("sp500/2008-09-02"), "the first of September was Labor Day"
    assert isinstance(first.truth, float)
    with pytest.raises(BadInput, match="2018-12-31 is last"):
        later_rows(series.manifest, declaration, date(2030, 1, 1))
