"""The window of the latest rows is the one that the training chain makes of the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from labline.declaration import load_series_usecase
from labline.errors import BadInput
from labline.series.dataset import SeriesDataset, windows
from labline.series.latest import TIMESTAMP, _orderly, columns_needed, latest_window, rows_needed
from labline.series.usecase import SeriesUseCase
from tests.labline.series.market import FEATURES, make_prices, prepare, settings_for

USECASES = Path(__file__).parents[3] / "usecases"
PRICES = make_prices(160)


def declared(**cleaning: Any) -> SeriesUseCase:
    return SeriesUseCase.model_validate(
        {
            "name": "prices",
            "title": "Prices",
            "data": {"source": "csv", "path": "prices.csv", "entity": "entity"},
            "features": FEATURES.model_dump(),
            "cleaning": cleaning,
            "training": {"epochs": 1},
        }
    )


def as_columns(prices: pd.DataFrame, declaration: SeriesUseCase, moments: str = "%Y-%m-%d") -> dict[str, list[Any]]:
    """What a client sends of a table."""
    given = {str(name): prices[name].astype(object).where(prices[name].notna(), None).tolist() for name in prices}
    given["date"] = prices["date"].dt.strftime(moments).tolist()
    return {name: given[spelled] for name, spelled in columns_needed(declaration, list(given)).items()}


@pytest.fixture(scope="module")
def sp500(tmp_path_factory: pytest.TempPathFactory) -> tuple[SeriesUseCase, SeriesDataset]:
    declaration = load_series_usecase("volatility", USECASES)
    folder = tmp_path_factory.mktemp("sp500")
    return declaration, prepare(declaration.data, folder, declaration.features, declaration.cleaning)


@pytest.mark.parametrize("moments", ["%Y-%m-%d", "%Y-%m-%dT16:00:00-05:00", "%Y-%m-%d 16:00"])
def test_raw_rows_of_the_sp500_give_the_windows_of_the_data_set(
    sp500: tuple[SeriesUseCase, SeriesDataset], moments: str
) -> None:
    declaration, dataset = sp500
    needed = rows_needed(declaration)
    samples = windows(dataset, "test", targets=False)

    for position in (0, 500, len(samples) - 1):
        end = int(samples.indices[position])
        rows = dataset.manifest.iloc[end - needed + 1 : end + 1]
        sent = as_columns(rows.assign(date=rows["timestamp"]), declaration, moments)
        expected, _ = samples.batch([position])
        np.testing.assert_array_equal(latest_window(sent, declaration), expected[0])


policies = st.fixed_dictionaries(
    {
        "gaps": st.sampled_from(["keep", "drop", "forward-fill"]),
        "outliers": st.sampled_from(["keep", "quarantine", "clip"]),
        "duplicates": st.sampled_from(["first", "last", "quarantine"]),
        "longest_gap": st.integers(3, 7),
        "outlier_window": st.just(5),
    }
)
faults = st.lists(
    st.tuples(st.integers(60, 159), st.sampled_from(["close", "volume"]), st.sampled_from([np.nan, 1.3, -1.0, 1.0])),
    max_size=3,
)


@settings(max_examples=15, deadline=None)
@given(
    cleaning=policies, changes=faults, missing=st.sets(st.integers(100, 158), max_size=8), copied=st.integers(90, 159)
)
def test_faulty_rows_give_what_training_would_have_made_of_them(
    cleaning: dict[str, Any],
    changes: list[tuple[int, str, float]],
    missing: set[int],
    copied: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The same window where the latest row ends one, and otherwise a refusal."""
    declaration = declared(**cleaning)
    prices = PRICES.copy()
    for row, column, factor in changes:
        prices.loc[row, column] *= factor
    prices = pd.concat([prices, prices.loc[[copied]] if copied < 150 else prices.head(0)], ignore_index=True)
    prices = prices.drop(index=list(missing))
    folder = tmp_path_factory.mktemp("faulty")
    prices.to_parquet(folder / "prices.parquet")
    try:
        dataset = prepare(
            settings_for(folder / "prices.parquet", max_rejected=1.0), folder / "set", cleaning=declaration.cleaning
        )
    except BadInput:  # too little is left to train on
        reject()
    rows = dataset.manifest
    ends_one = rows["timestamp"].iloc[-1].tz_localize(None) == prices["date"].max() and rows["complete"].iloc[-1]

    try:
        found: object = latest_window(as_columns(prices, declaration), declaration)
    except BadInput as error:
        found = error

    if ends_one:
        np.testing.assert_array_equal(found, dataset.features[-FEATURES.window :])
    else:
        assert isinstance(found, BadInput)


def test_rows_that_need_no_cleaning_are_known_without_pandas() -> None:
    declaration = declared()
    for moments in ("%Y-%m-%d", "%Y-%m-%dT16:00:00+01:00", "%Y-%m-%dT16:00:00Z"):
        assert _orderly(as_columns(PRICES, declaration, moments), declaration) is not None
    for faulty in (PRICES.iloc[::-1], PRICES.drop(index=range(100, 120)), PRICES.assign(close=-1.0)):
        assert _orderly(as_columns(faulty, declaration), declaration) is None


def test_the_order_of_rows_does_not_matter() -> None:
    declaration = declared()
    expected = latest_window(as_columns(PRICES, declaration), declaration)
    shuffled = PRICES.sample(frac=1, random_state=0)
    np.testing.assert_array_equal(latest_window(as_columns(shuffled, declaration), declaration), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda prices: prices.tail(17), "17 rows were sent; expected at least 18, the 8 of the window and 10 that"),
        (lambda prices: prices.assign(close=prices["close"].where(prices.index < 159)), "'close' has no value"),
        (
            lambda prices: prices.assign(close=prices["close"].where(prices.index < 159, -2)),
            "above 0, for its logarithm",
        ),
        (lambda prices: prices.assign(close=prices["close"].where(prices.index < 159, np.inf)), "finite number"),
        (lambda prices: prices.drop(index=range(140, 157)), "is not complete"),
    ],
)
def test_rows_that_give_no_forecast_of_the_present_are_refused(change: Any, words: str) -> None:
    declaration = declared()
    columns = as_columns(change(PRICES), declaration)
    with pytest.raises(BadInput, match=words):
        latest_window(columns, declaration)


def test_columns_are_found_by_their_plain_names_and_missed_by_the_nearest() -> None:
    declaration = declared()
    given = ["Open", "HIGH", "low", "Close", "Volume"]
    found = columns_needed(declaration, ["timestamp", "unread", *given])
    assert found == {"timestamp": "timestamp", **{name.lower(): name for name in given}}
    with pytest.raises(BadInput, match="no column 'volume'; did you mean 'volumes'"):
        columns_needed(declaration, ["date", *given[:-1], "volumes"])
    with pytest.raises(BadInput, match="no column 'date'"):
        columns_needed(declaration, given)


@pytest.mark.parametrize("moment", ["yesterday", "2020-02-31", "20:00", "1234567890123"])
def test_a_moment_that_cannot_be_read_is_named(moment: str) -> None:
    declaration = declared()
    columns = as_columns(PRICES, declaration)
    columns[TIMESTAMP][100] = moment
    with pytest.raises(BadInput, match=f"row 100: .*'{moment}' is no moment"):
        latest_window(columns, declaration)


def test_outliers_are_judged_by_a_past_that_has_to_be_sent() -> None:
    assert rows_needed(declared()) == FEATURES.rows_needed
    assert rows_needed(declared(outliers="clip", outlier_window=5)) == FEATURES.rows_needed + 10
