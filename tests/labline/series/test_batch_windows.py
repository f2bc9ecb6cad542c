"""A table of raw rows as windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from labline.declaration import load_series_usecase
from labline.errors import BadInput
from labline.series.batch_windows import write_windows
from labline.series.latest import columns_needed, latest_window, rows_needed
from labline.series.usecase import SeriesUseCase


@pytest.fixture(scope="module")
def declaration() -> SeriesUseCase:
    return load_series_usecase("volatility", Path("usecases"))


@pytest.fixture(scope="module")
def prices() -> pd.DataFrame:
    import arch.data.sp500

    return arch.data.sp500.load().rename_axis("date").reset_index().tail(120)


def windows(folder: Path, window: int) -> np.ndarray:
    features_NF, ends = np.load(folder / "features.npy"), np.load(folder / "ends.npy")
    return np.stack([features_NF[end - window + 1 : end + 1] for end in ends])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_each_window_is_the_one_the_service_would_make(
    suffix: str, prices: pd.DataFrame, declaration: SeriesUseCase, tmp_path: Path
) -> None:
    source = tmp_path / f"prices{suffix}"
    prices.to_csv(source, index=False) if suffix == ".csv" else prices.to_parquet(source, index=False)
    samples, refused = write_windows(source, declaration, tmp_path)
    needed = rows_needed(declaration)
    assert samples == len(prices) - needed + 1
    assert len(refused) == needed - 1, "the first rows have too few before them"
    found = windows(tmp_path, declaration.features.window)
    for number in (0, 17, samples - 1):
        rows = prices.iloc[number : number + needed]
        given = {name: rows[spelled] for name, spelled in columns_needed(declaration, list(rows.columns)).items()}
        texts = {"timestamp": given.pop("timestamp").dt.strftime("%Y-%m-%d").tolist()}
        sent = texts | {name: values.tolist() for name, values in given.items()}
        assert np.array_equal(found[number], latest_window(sent, declaration))
    moments = pd.to_datetime(np.load(tmp_path / "moments.npy"), utc=True)
    assert moments[-1].tz_convert("America/New_York") == pd.Timestamp(prices["date"].iloc[-1], tz="America/New_York")


def test_rows_that_cannot_be_used_are_refused_and_the_others_answered(
    prices: pd.DataFrame, declaration: SeriesUseCase, tmp_path: Path
) -> None:
    spoilt = prices.astype({"Close": object, "date": str}).reset_index(drop=True)
    spoilt.loc[60, "Close"] = "much"
    spoilt.loc[80, "date"] = "some day"
    spoilt.loc[90, "Close"] = -1.0
    spoilt.to_csv(tmp_path / "prices.csv", index=False)
    samples, refused = write_windows(tmp_path / "prices.csv", declaration, tmp_path)
    reasons = {reason for *_, reason in refused}
    assert any("found 'much'" in reason for reason in reasons)
    assert any("'some day' is no moment" in reason for reason in reasons)
    assert any("expected a number above 0" in reason for reason in reasons)
    assert samples + len(refused) == len(prices)


@pytest.mark.parametrize(
    ("columns", "rows", "told"), [(["date", "Open"], 120, "has no column"), (None, 5, "no forecast can be made")]
)
def test_a_table_without_a_forecast_is_refused(
    columns: list[str] | None, rows: int, told: str, prices: pd.DataFrame, declaration: SeriesUseCase, tmp_path: Path
) -> None:
    (prices[columns] if columns else prices).head(rows).to_csv(tmp_path / "prices.csv", index=False)
    with pytest.raises(BadInput, match=told):
        write_windows(tmp_path / "prices.csv", declaration, tmp_path)
