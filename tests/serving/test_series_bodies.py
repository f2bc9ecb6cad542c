"""Bodies that hold a series: raw rows become the training chain's features, and what is wrong is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import ARROW, JSON, NPY, RAW, as_arrow, as_json, as_npy
from small_models import series_model

from labline.packaged_model import PackagedModel
from labline.series.latest import rows_needed
from serving.decoding import Decoded, Limits, Refused, decode_body, prepare
from serving.series_bodies import declaration_of

VOLATILITY = Path(__file__).parents[2] / "usecases" / "volatility.toml"
LIMITS = Limits()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> PackagedModel:
    found = series_model(tmp_path_factory.mktemp("series"), VOLATILITY.read_text(), window=20, features=2)
    prepare(found)
    return found


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    import arch.data.sp500

    table = arch.data.sp500.load().iloc[1000:1030]
    dated = table.reset_index(names="Date").astype({"Date": str})
    return [{str(name): value for name, value in row.items()} for row in dated.to_dict("records")]


def outcome(body: bytes, content_type: str, model: PackagedModel, limits: Limits = LIMITS) -> Decoded | Refused:
    try:
        return decode_body(body, content_type, model, limits)
    except Refused as refused:
        return refused


def decoded(body: bytes, content_type: str, model: PackagedModel) -> Decoded:
    found = outcome(body, content_type, model)
    assert isinstance(found, Decoded), found
    return found


def test_rows_become_the_latest_window_and_its_last_features_are_the_facts(
    rows: list[dict[str, Any]], model: PackagedModel
) -> None:
    found = decoded(as_json({"rows": rows}), JSON, model)

    assert found.single
    assert model.input.mismatch(found.inputs) is None
    assert model.predict(found.inputs).shape == (1, 1)
    closes = [row["Close"] for row in rows]
    np.testing.assert_allclose(found.inputs[0, :, 1], np.diff(np.log(closes))[-20:], rtol=1e-5)
    (facts,) = found.facts
    assert facts == dict(zip(["log(garman-klass(1))", "log-return(close)"], found.inputs[0, -1].tolist(), strict=True))


def test_the_same_rows_by_any_way_give_the_same_window(rows: list[dict[str, Any]], model: PackagedModel) -> None:
    expected = decoded(as_json({"rows": rows}), JSON, model).inputs
    table = pd.DataFrame(rows)
    dated = table.assign(Date=pd.to_datetime(table["Date"]))
    renamed = [{"timestamp": row["Date"], **{k.lower(): v for k, v in row.items() if k != "Date"}} for row in rows]
    for body, content_type in [
        (as_json({"rows": renamed, "entity": "sp500"}), JSON),
        (as_json({"rows": rows[::-1]}), JSON),
        (as_arrow(pa.Table.from_pandas(table, preserve_index=False)), ARROW),
        (as_arrow(pa.Table.from_pandas(dated, preserve_index=False)), ARROW),
        (as_npy(expected), NPY),
        (as_npy(expected.astype(">f4")), NPY),
        (as_npy(expected[0]), NPY),
    ]:
        np.testing.assert_array_equal(decoded(body, content_type, model).inputs, expected)


def test_what_is_no_series_is_refused_and_told_what_was_expected(
    rows: list[dict[str, Any]], model: PackagedModel
) -> None:
    window = np.zeros((1, 20, 2), np.float32)
    undated = [{name: value for name, value in row.items() if name != "Date"} for row in rows]
    for body, content_type, status, words in [
        (window.tobytes(), RAW, 415, "expected one of application/x-npy"),
        (as_json({"rows": rows[:5]}), JSON, 422, "5 rows were sent; expected at least 21"),
        (as_json({"rows": []}), JSON, 422, "not empty"),
        (as_json({"rows": [1]}), JSON, 422, "list of objects"),
        (as_json({"instances": [[0]]}), JSON, 422, 'the key "rows"'),
        (as_json(rows), JSON, 422, 'the key "rows"'),
        (as_json({"rows": undated}), JSON, 422, "no column 'date'"),
        (as_json({"rows": [row | {"Close": "12"} for row in rows]}), JSON, 422, "row 0, 'close': expected a number"),
        (as_json({"rows": [row | {"Close": True} for row in rows]}), JSON, 422, "row 0, 'close': expected a number"),
        (as_json({"rows": [row | {"Date": 5} for row in rows]}), JSON, 422, "expected a text in ISO 8601"),
        (as_json({"rows": [*rows[:-1], rows[-1] | {"Close": None}]}), JSON, 422, "the latest row"),
        (as_json({"rows": [*rows[:-1], rows[-1] | {"Close": -1}]}), JSON, 422, "a number above 0"),
        (as_json({"rows": rows * 200}), JSON, 413, "6,000 rows were sent; at most 4,096"),
        (as_npy(window.astype(np.float64)), NPY, 422, "dtype 'float64'; expected float32 windows"),
        (as_npy(window[:, :10]), NPY, 422, "the shape is 1 x 10 x 2"),
        (as_npy(window[:0]), NPY, 422, "no window was sent"),
        (as_npy(np.zeros((5000, 20, 2), np.float32)), NPY, 413, "5,000 windows were sent"),
        (as_npy(window * np.nan), NPY, 422, "not finite"),
        (as_arrow(pa.table({"Date": [["x"]]})), ARROW, 422, "expected numbers, texts, dates or times"),
    ]:
        found = outcome(body, content_type, model)
        assert isinstance(found, Refused), words
        assert (found.status, words in found.message) == (status, True), found.message


def test_rows_of_several_series_are_refused(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    usecase = VOLATILITY.read_text().replace("[data]\n", '[data]\nentity = "name"\n')
    model = series_model(tmp_path / "several", usecase, window=20, features=2)
    mixed = [row | {"name": str(number % 2)} for number, row in enumerate(rows)]
    found = outcome(as_json({"rows": mixed}), JSON, model)
    assert isinstance(found, Refused) and "several 'name'" in found.message


def test_as_many_rows_are_taken_as_a_forecast_needs(rows: list[dict[str, Any]], model: PackagedModel) -> None:
    needed = rows_needed(declaration_of(model.folder))
    body = as_json({"rows": rows[-needed:]})
    assert isinstance(outcome(body, JSON, model, Limits(max_samples=5)), Decoded)
    assert isinstance(outcome(as_json({"rows": rows}), JSON, model, Limits(max_samples=5)), Refused)


values = st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(-(2**70), 2**70) | st.text(max_size=12)
moments = st.dates().map(str) | st.datetimes().map(str) | values


@settings(max_examples=60, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 29), st.sampled_from(["Date", "Close", "High"]), values | moments)))
def test_any_rows_give_a_finite_window_or_a_refusal(
    changes: list[tuple[int, str, Any]], rows: list[dict[str, Any]], model: PackagedModel
) -> None:
    damaged = [dict(row) for row in rows]
    for row, column, value in changes:
        damaged[row][column] = value
    found = outcome(as_json({"rows": damaged}), JSON, model)
    if isinstance(found, Refused):
        assert found.status == 422
    else:
        assert model.input.mismatch(found.inputs) is None
        assert np.isfinite(found.inputs).all()
