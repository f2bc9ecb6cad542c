"""Made-up prices for the tests of series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from labline.series.cleaning import clean_series
from labline.series.dataset import SeriesDataset, open_series, write_series
from labline.series.declaration import Features, SeriesCleaning, SeriesData
from labline.series.ingest import ingest_series

FEATURES = Features(
    inputs=[
        "log-return(close)",
        "log(garman-klass(1))",
        "parkinson(5)",
        "rolling-std(log-return(close), 10)",
        "lag(difference(volume), 2)",
    ],
    window=8,
    horizon=3,
)


def make_prices(days: int = 200, entities: tuple[str, ...] = ("only",), seed: int = 0) -> pd.DataFrame:
    """Business days with date, entity, open, high, low, close and volume; high and low hold what they should."""
    generator = np.random.default_rng(seed)
    tables = []
    for name in entities:
        close = 100 * np.exp(np.cumsum(generator.normal(0, 0.01, days)))
        opened = close * np.exp(generator.normal(0, 0.005, days))
        spread = np.exp(np.abs(generator.normal(0.001, 0.005, days)))
        table = pd.DataFrame({"date": pd.bdate_range("2020-01-01", periods=days), "entity": name, "open": opened})
        table["high"] = np.maximum(opened, close) * spread
        table["low"] = np.minimum(opened, close) / spread
        tables.append(table.assign(close=close, volume=generator.integers(1000, 2000, days).astype(float)))
    return pd.concat(tables, ignore_index=True)


def as_csv(prices: pd.DataFrame, folder: Path, name: str = "prices.csv") -> SeriesData:
    prices.to_csv(folder / name, index=False)
    return settings_for(folder / name)


def settings_for(path: Path, **keys: Any) -> SeriesData:
    declared = {"source": path.suffix[1:], "path": str(path), "entity": "entity", **keys}
    return SeriesData.model_validate(declared)


def prepare(
    data: SeriesData, directory: Path, features: Features = FEATURES, cleaning: SeriesCleaning | None = None
) -> SeriesDataset:
    """The whole chain: ingest, clean, features, targets, data set."""
    ingested = ingest_series(data, features)
    cleaned = clean_series(ingested.manifest, cleaning or SeriesCleaning(), features.columns, features.positive_columns)
    write_series(cleaned, features, directory, ingested.quarantine)
    return open_series(directory)
