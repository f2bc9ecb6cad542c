from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from labline.errors import BadInput
from labline.series.declaration import SeriesData
from labline.series.sources import SeriesRows, plain_name, read_series


def read_text(folder: Path, text: str, **keys: Any) -> SeriesRows:
    (folder / "prices.csv").write_text(text, encoding="utf-8")
    return read_series(SeriesData.model_validate({"source": "csv", "path": str(folder / "prices.csv"), **keys}))


@pytest.mark.parametrize("name", ["sp500", "nasdaq"])
def test_the_shipped_indices_load_without_a_network(name: str) -> None:
    source = read_series(SeriesData(source=name))
    assert source.values == ("open", "high", "low", "close", "adj_close", "volume")
    assert len(source.rows) == 5031 and source.problems.empty
    assert str(source.rows["timestamp"].iloc[-1].date()) == "2018-12-31"


def test_a_file_for_an_index_that_is_built_in_is_refused() -> None:
    with pytest.raises(BadInput, match="built in and reads no file"):
        read_series(SeriesData(source="sp500", path="mine.csv"))


def test_a_csv_is_read_with_plain_names_and_missing_numbers(tmp_path: Path) -> None:
    source = read_text(
        tmp_path, "Date,Adj Close,Ticker\n2020-01-01,1.5,NA\n2020-01-02,,NA\n2020-01-03,.,NA\n", entity="ticker"
    )
    assert source.values == ("adj_close",) and source.problems.empty
    assert list(source.rows["entity"]) == ["NA"] * 3  # a ticker, not a missing value
    assert source.rows["adj_close"].isna().tolist() == [False, True, True]
    assert list(source.rows["line"]) == [2, 3, 4]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_recognised(separator: str, tmp_path: Path) -> None:
    text = "date,a,b\n2020-01-01,1,2\n".replace(",", separator)
    assert read_text(tmp_path, text).values == ("a", "b")


def test_every_bad_row_is_listed_with_its_reason(tmp_path: Path) -> None:
    lines = ["date,close", "2020-01-01,1", "2020-01-02,n.v.", "", "yesterday,3", "2020-01-04,inf", ",5", "2020-02-30,6"]
    source = read_text(tmp_path, "\n".join(lines) + "\n")
    listed = dict(zip(source.rows.loc[source.problems.index, "line"], source.problems["reason"], strict=True))
    assert list(listed) == [3, 5, 6, 7, 8]  # the empty line 4 is nobody's fault
    assert listed[3] == "column 'close': expected a finite number, found 'n.v.'"
    assert "'yesterday' is no moment" in listed[5] and "found 'inf'" in listed[6]
    assert "expected ISO 8601, such as 2020-01-31" in listed[8]


def test_different_offsets_are_one_time_line(tmp_path: Path) -> None:
    source = read_text(
        tmp_path, "date,x\n2020-06-01T12:00:00+02:00,1\n2020-06-01T07:00:00-05:00,2\n2020-06-01T13:00Z,3\n"
    )
    hours = source.rows["timestamp"].dt.hour.tolist()
    assert hours == [10, 12, 13] and source.problems.empty


def test_rows_that_name_no_zone_among_rows_that_do_are_refused(tmp_path: Path) -> None:
    text = "date,x\n2020-06-01T12:00:00+02:00,1\n2020-06-01T13:00:00+02:00,1\n2020-06-01T14:00:00,2\n"
    source = read_text(tmp_path, text)
    assert list(source.problems["expectation"]) == ["time-zone"] and list(source.problems.index) == [2]


def test_clock_times_are_placed_in_the_declared_zone_and_refused_where_the_clock_skips_them(tmp_path: Path) -> None:
    text = "date,x\n2020-03-08T01:30:00,1\n2020-03-08T02:30:00,2\n2020-03-08T03:30:00,3\n2020-03-09T03:30:00,3\n"
    source = read_text(tmp_path, text, time_zone="America/New_York")
    assert source.rows["timestamp"].dt.hour.tolist()[::2] == [6, 7]
    assert list(source.problems.index) == [1] and "no moment in America/New_York" in source.problems["reason"][1]


def test_days_in_another_format_are_read_when_it_is_declared(tmp_path: Path) -> None:
    text = "date,x\n31/01/2020,1\n01/02/2020,2\n"
    assert read_text(tmp_path, text, timestamp_format="%d/%m/%Y").problems.empty
    assert len(read_text(tmp_path, text).problems) == 2


def test_eight_digits_are_a_day_and_other_numbers_are_not(tmp_path: Path) -> None:
    source = read_text(tmp_path, "date,x\n20200131,1\n1577836800,2\n")
    assert str(source.rows["timestamp"][0].date()) == "2020-01-31" and list(source.problems.index) == [1]


def test_text_columns_are_left_out_unless_they_are_declared(tmp_path: Path) -> None:
    text = "date,note,close\n2020-01-01,good,1\n2020-01-02,bad,2\n"
    assert read_text(tmp_path, text).values == ("close",)
    with pytest.raises(BadInput, match=r"prices.csv, line 2, column 'note': 'good' is no number.*data.values"):
        read_text(tmp_path, text, values=["note", "close"])


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("", {}, "cannot be read as .csv: No columns"),
        ("date,x\n", {}, "has no rows"),
        ("date,x\n2020-01-01,1\n2020-01-02,1,2\n", {}, "Expected 2 fields in line 3, saw 3"),
        ("date,x\n2020-01-01,1,7\n2020-01-02,1,2\n", {}, "more fields than the header"),
        ("day,x\n2020-01-01,1\n", {}, "no column 'date'; set data.timestamp: valid names: day, x"),
        ("date,x\n2020-01-01,1\n", {"entity": "y"}, "no column 'y'; set data.entity"),
        ("date,x\n2020-01-01,1\n", {"values": ["xx"]}, "no column 'xx'; set data.values"),
        ("date,split\n2020-01-01,1\n", {}, "'split' has a name that labline keeps for itself"),
        ("date,a b,A_B\n2020-01-01,1,1\n", {}, "columns 'a b' and 'A_B' are both 'a_b'"),
        ("date,x\n2020-01-01,word\n", {}, "no column of numbers"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_message(
    text: str, keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        read_text(tmp_path, text, **keys)


def test_files_that_are_not_there_or_not_what_they_say(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file at"):
        read_series(SeriesData(source="csv", path=str(tmp_path / "nothing.csv")))
    with pytest.raises(BadInput, match="needs data.path"):
        read_series(SeriesData(source="parquet"))
    (tmp_path / "prices.parquet").write_bytes(b"no parquet")
    with pytest.raises(BadInput, match="cannot be read as .parquet"):
        read_series(SeriesData(source="parquet", path=str(tmp_path / "prices.parquet")))
    (tmp_path / "latin.csv").write_bytes("date,x\n2020-01-01,ü\n".encode("latin-1"))
    with pytest.raises(BadInput, match="Expected UTF-8"):
        read_series(SeriesData(source="csv", path=str(tmp_path / "latin.csv")))
    with pytest.raises(BadInput, match="did you mean 'sp500'"):
        read_series(SeriesData(source="sp50"))


def test_a_function_of_ones_own_returns_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_series.py").write_text(
        "import pandas as pd\n"
        "def load(settings):\n"
        "    days = pd.date_range('2020-01-01', periods=3, name='date')\n"
        "    return pd.DataFrame({'x': range(settings.options['start'], 3)}, index=days)\n"
        "def wrong(settings):\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    source = read_series(SeriesData(source="own_series:load", options={"start": 0}))
    assert source.rows["x"].tolist() == [0, 1, 2] and source.values == ("x",)
    with pytest.raises(BadInput, match="returned int; expected a pandas DataFrame"):
        read_series(SeriesData(source="own_series:wrong"))
    with pytest.raises(BadInput, match="failed: KeyError"):
        read_series(SeriesData(source="own_series:load"))
    sys.modules.pop("own_series")


@pytest.mark.parametrize(
    ("given", "plain"), [("Adj Close", "adj_close"), (" 5min ", "_5min"), ("Größe (m²)", "größe_m²")]
)
def test_names_become_plain(given: str, plain: str) -> None:
    assert plain_name(given) == plain


def test_a_table_with_times_as_text_reads_like_one_with_times(tmp_path: Path) -> None:
    days = pd.date_range("2020-01-01", periods=4)
    pd.DataFrame({"date": days, "x": range(4)}).to_parquet(tmp_path / "times.parquet")
    pd.DataFrame({"date": days.astype(str), "x": range(4)}).to_parquet(tmp_path / "text.parquet")
    tables = [
        read_series(SeriesData(source="parquet", path=str(tmp_path / f"{name}.parquet"))).rows.drop(columns="entity")
        for name in ("times", "text")
    ]
    pd.testing.assert_frame_equal(*tables)
