"""The sources a series may come from, each read into one table of checked rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from labline.declaration import expand
from labline.errors import BadInput, nearest
from labline.series.declaration import SeriesData

RESERVED = ("sample_id", "timestamp", "entity", "split", "line", "stretch", "complete", "label", "source")
# What files write for a missing number; anything else that is no number is a mistake.
MISSING = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None", "-", ".")
OFFSET = r":\d\d(?:\.\d+)?\s*(?:[Zz]|[+-]\d\d(?::?\d\d)?)$"  # a time of day that names its distance from UTC
WHOLE_DAY = r"^\d{8}$"


@dataclass(frozen=True)
class SeriesRows:
    """Every row of a source, usable or not, in the source's order.

    `rows`: timestamp (datetime64[ns, UTC], NaT where unreadable), entity (text), line (where the row stands in the
    source) and `values` (float64, NaN where missing). `problems`: for the rows that cannot be used, indexed like
    `rows`: expectation, value, reason. `name` is the source as a person calls it, `place` what `line` counts.
    """

    rows: pd.DataFrame
    values: tuple[str, ...]
    problems: pd.DataFrame
    name: str
    place: str


@dataclass(frozen=True)
class _Table:
    """A source as it is found: columns under their own names, everything of a .csv as text."""

    frame: pd.DataFrame
    name: str
    place: str = "row"
    first_line: int = 0
    entity: str = "series"


def read_series(settings: SeriesData) -> SeriesRows:
    """Read the declared source.

    Rows that cannot be used are listed in `problems`, each with a reason. Raises BadInput naming file, place, what was
    expected and what to do where the source as a whole cannot: not found, not understood, a column missing.
    """
    if ":" in settings.source:
        table = _own(settings)
    elif settings.source in SOURCES:
        table = SOURCES[settings.source](settings)
    else:
        hint = nearest(settings.source, [*SOURCES, "module:function"])
        raise BadInput(f"data.source = {settings.source!r} is not a source of series that labline knows; {hint}")
    return _checked(table, settings)


def check_rows(frame: pd.DataFrame, settings: SeriesData, name: str) -> SeriesRows:
    """Rows that are at hand, under the rules for those of a source; `name` is what messages call them."""
    return _checked(_Table(frame, name), settings)


def plain_name(name: object) -> str:
    """A column's name as expressions spell it: lower case, "_" for whatever is neither letter nor digit."""
    plain = re.sub(r"\W+", "_", str(name).strip().lower()).strip("_")
    return f"_{plain}" if plain[:1].isdigit() else plain


# --- reading -----------------------------------------------------------------------------------------------------


def _csv(settings: SeriesData) -> _Table:
    path = _path(settings, "a .csv with one row a timestamp")
    try:
        frame = _read_csv(path, settings)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, ValueError, OSError) as error:
        problem = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise BadInput(
            f"{path} cannot be read as .csv: {problem}. Expected UTF-8 text, a header in line 1 and as many fields in "
            "every line; mend this place."
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise BadInput(f"{path}: lines have more fields than the header; expected a name for every column in line 1")
    return _Table(frame[~(frame.isna() | (frame == "")).all(axis=1)], str(path), "line", 2, path.stem)


def _read_csv(path: Path, settings: SeriesData) -> pd.DataFrame:
    """Times and entities as they are written, empty lines too, so that rows keep the numbers of their lines."""
    with path.open(encoding="utf-8-sig") as file:
        separator = max(",;\t", key=file.readline().count)
    written = {plain_name(settings.timestamp), plain_name(settings.entity or "")}
    header = pd.read_csv(path, sep=separator, nrows=0, encoding="utf-8-sig").columns
    return pd.read_csv(
        path,
        sep=separator,
        dtype={name: str for name in header if plain_name(name) in written},
        na_values={name: list(MISSING) for name in header if plain_name(name) not in written},
        keep_default_na=False,
        skip_blank_lines=False,
        low_memory=False,  # a column is of one kind throughout, not of one kind a block
        encoding="utf-8-sig",
    )


def _parquet(settings: SeriesData) -> _Table:
    path = _path(settings, "a .parquet with one row a timestamp")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise BadInput(f"{path} cannot be read as .parquet: {error}") from error
    return _Table(_with_index(frame), str(path), entity=path.stem)


def _sp500(settings: SeriesData) -> _Table:
    """Daily prices of the S&P 500, 1999 to 2018, as the package `arch` ships them."""
    import arch.data.sp500

    return _shipped(arch.data.sp500, "sp500", settings)


def _nasdaq(settings: SeriesData) -> _Table:
    """Daily prices of the NASDAQ composite, 1999 to 2018, as the package `arch` ships them."""
    import arch.data.nasdaq

    return _shipped(arch.data.nasdaq, "nasdaq", settings)


def _shipped(module: ModuleType, name: str, settings: SeriesData) -> _Table:
    if settings.path is not None:
        raise BadInput(
            f"data.source = {name!r} is built in and reads no file, got data.path = {settings.path!r}; leave that out, "
            'or declare data.source = "csv" or "parquet"'
        )
    frame = module.load()
    return _Table(_with_index(frame.rename_axis("date")), name, entity=name)


def _own(settings: SeriesData) -> _Table:
    """`module:function`: the user's own code, called with the [data] section; it returns a pandas DataFrame."""
    from labline.data.image_arrays import _line, _own_function

    where = f"data.source = {settings.source!r}"
    function = _own_function(settings.source, where)
    try:
        returned = function(settings)
    except Exception as error:
        raise BadInput(f"{where} failed: {type(error).__name__}: {error}{_line(error)}") from error
    if not isinstance(returned, pd.DataFrame):
        raise BadInput(f"{where} returned {type(returned).__name__}; expected a pandas DataFrame, one row a timestamp")
    return _Table(_with_index(returned), settings.source)


SOURCES: Mapping[str, Callable[[SeriesData], _Table]] = {
    "sp500": _sp500,
    "nasdaq": _nasdaq,
    "csv": _csv,
    "parquet": _parquet,
}


def _path(settings: SeriesData, expected: str) -> Path:
    if settings.path is None:
        raise BadInput(f"data.source = {settings.source!r} needs data.path: {expected}")
    path = expand(settings.path, "data.path")
    if not path.is_file():
        raise BadInput(f"data.path: there is no file at {path.absolute()}; expected {expected}")
    return path


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Named levels of the index become columns; an index without a name only counts rows."""
    named = [name for name in frame.index.names if name is not None]
    return frame.reset_index(level=named).reset_index(drop=True) if named else frame.reset_index(drop=True)


# --- checking ----------------------------------------------------------------------------------------------------


def _checked(table: _Table, settings: SeriesData) -> SeriesRows:
    frame = table.frame.set_axis(_plain_names(table), axis=1)
    timestamp = _column(frame, settings.timestamp, "data.timestamp", table.name)
    entity = None if settings.entity is None else _column(frame, settings.entity, "data.entity", table.name)
    if frame.empty:
        raise BadInput(f"{table.name} has no rows; expected one a timestamp")
    times, problems = _timestamps(frame[timestamp], settings)
    found = [problems]
    entities = (
        pd.Series(table.entity, frame.index) if entity is None else frame[entity].fillna("").astype(str).str.strip()
    )
    nameless = frame.index[entities == ""]
    found.append(_problems(nameless, "entity", "", f"column {entity!r} is empty; expected the name of a series"))
    numbers: dict[str, pd.Series[Any]] = {}
    for name in _value_names(frame, settings, {timestamp, entity}, table):
        numbers[name], problems = _numbers(frame[name])
        found.append(problems)
    rows = pd.DataFrame({"timestamp": times, "entity": entities, "line": frame.index + table.first_line, **numbers})
    every = pd.concat(found)
    every = every[~every.index.duplicated()].sort_index()
    return SeriesRows(
        rows.reset_index(drop=True),
        tuple(numbers),
        every.set_axis(frame.index.get_indexer(every.index)),
        table.name,
        table.place,
    )


def _plain_names(table: _Table) -> list[str]:
    names = [plain_name(name) for name in table.frame.columns]
    for position, name in enumerate(names):
        if name in names[:position]:
            twins = [str(given) for given, plain in zip(table.frame.columns, names, strict=True) if plain == name]
            raise BadInput(
                f"{table.name}: the columns {' and '.join(map(repr, twins))} are both {name!r} to labline, which looks "
                "at letters and digits alone, in lower case; rename one"
            )
    return names


def _column(frame: pd.DataFrame, declared: str, key: str, where: str) -> str:
    name = plain_name(declared)
    if name not in frame.columns:
        raise BadInput(f"{where} has no column {declared!r}; set {key}: {nearest(name, map(str, frame.columns))}")
    return name


def _value_names(frame: pd.DataFrame, settings: SeriesData, taken: set[str | None], table: _Table) -> list[str]:
    """The declared columns, or all that hold more numbers than other text."""
    if settings.values is not None:
        names = [_column(frame, name, "data.values", table.name) for name in settings.values]
    else:
        names = [name for name in map(str, frame.columns) if name not in taken and _is_numeric(frame[name])]
    for name in names:
        if name in RESERVED or name in taken:
            raise BadInput(
                f"{table.name}: the column {name!r} has a name that labline keeps for itself or uses already; rename "
                "it, or leave it out of data.values"
            )
        if not _is_numeric(frame[name]):
            first = frame.index[_number_or_nan(frame[name]).isna() & ~_is_missing(frame[name])][0]
            raise BadInput(
                f"{table.name}, {table.place} {first + table.first_line}, column {name!r}: {frame[name][first]!r} is "
                "no number, like most of this column; expected numbers: mend it, or leave it out of data.values"
            )
    if not names:
        raise BadInput(f"{table.name} has no column of numbers besides {settings.timestamp!r}; expected one or more")
    return names


def _is_missing(column: pd.Series[Any]) -> pd.Series[Any]:
    missing: pd.Series[Any] = column.isna() | column.isin(MISSING)
    return missing


def _is_numeric(column: pd.Series[Any]) -> bool:
    if column.dtype.kind in "fiu":
        return True
    if column.dtype.kind in "mM" or isinstance(column.dtype, pd.DatetimeTZDtype):
        return False
    given = ~_is_missing(column)
    return bool(_number_or_nan(column[given]).notna().mean() >= 0.5) if given.any() else True


def _number_or_nan(column: pd.Series[Any]) -> pd.Series[Any]:
    text = column if column.dtype.kind in "fiub" else column.astype(str).str.strip()
    return pd.to_numeric(text, errors="coerce").astype(np.float64)


def _numbers(column: pd.Series[Any]) -> tuple[pd.Series[Any], pd.DataFrame]:
    """float64 values, NaN where missing, and the rows whose text is no number or is infinite."""
    numbers = _number_or_nan(column)
    infinite = np.isinf(numbers)
    wrong = column.index[(numbers.isna() & ~_is_missing(column)) | infinite]
    given = column[wrong].astype(str)
    reason = f"column {column.name!r}: expected a finite number, found '" + given + "'"
    return numbers.mask(infinite), _problems(wrong, "number", given, reason)


def _problems(index: pd.Index[Any], expectation: str, value: Any, reason: Any) -> pd.DataFrame:
    return pd.DataFrame({"expectation": expectation, "value": value, "reason": reason}, index=index, dtype=object)


# --- time --------------------------------------------------------------------------------------------------------


def _timestamps(column: pd.Series[Any], settings: SeriesData) -> tuple[pd.Series[Any], pd.DataFrame]:
    """Instants (datetime64[ns, UTC]), NaT where unreadable, and the rows without one, each with its reason."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        times, zoneless = column.dt.tz_convert("UTC").dt.as_unit("ns"), column.index[:0]
        given = column.astype(str)
    elif column.dtype.kind == "M":
        times, zoneless = _placed(column.dt.as_unit("ns"), settings.time_zone), column.index[:0]
        given = column.astype(str)
    else:
        given = column.fillna("").astype(str).str.strip()
        times, zoneless = _parsed(given, settings)
    unreadable = column.index[times.isna()].difference(zoneless)
    expected = settings.timestamp_format or "ISO 8601, such as 2020-01-31 or 2020-01-31T16:00:00-05:00"
    reason = (
        f"column {settings.timestamp!r}: '" + given[unreadable] + f"' is no moment in {settings.time_zone}; "
        f"expected {expected}"
    )
    mixed = (
        f"column {settings.timestamp!r}: '"
        + given[zoneless]
        + "': some rows name their time zone and others do not, and these are the fewer"
    )
    return times, pd.concat(
        [
            _problems(unreadable, "timestamp", given[unreadable], reason),
            _problems(zoneless, "time-zone", given[zoneless], mixed),
        ]
    )


def _parsed(text: pd.Series[Any], settings: SeriesData) -> tuple[pd.Series[Any], pd.Index[Any]]:
    """Instants, and the rows of the rarer kind where some name a time zone and others do not."""
    if settings.timestamp_format is not None and "%z" in settings.timestamp_format:
        return pd.to_datetime(text, format=settings.timestamp_format, errors="coerce", utc=True), text.index[:0]
    format = settings.timestamp_format or "ISO8601"
    aware = text.str.contains(OFFSET, regex=True)
    # A bare number would be taken for nanoseconds or a year; eight digits are a day.
    day_or_text = text.where(text.str.contains(r"\D", regex=True) | text.str.contains(WHOLE_DAY, regex=True), "")
    naive = pd.to_datetime(day_or_text.mask(aware), format=format, errors="coerce")
    instants = pd.to_datetime(text.where(aware), format="ISO8601", errors="coerce", utc=True).dt.as_unit("ns")
    times = instants.fillna(_placed(naive.dt.as_unit("ns"), settings.time_zone))
    readable = times.notna()
    rarer = aware if aware[readable].mean() < 0.5 else ~aware
    fewer = text.index[rarer & readable] if aware[readable].any() else text.index[:0]
    return times.mask(text.index.isin(fewer)), fewer


def _placed(naive: pd.Series[Any], time_zone: str) -> pd.Series[Any]:
    """Clock times as instants; NaT for those that a change of clocks skips or shows twice."""
    local = naive.dt.tz_localize(time_zone, ambiguous="NaT", nonexistent="NaT")
    placed: pd.Series[Any] = local.dt.tz_convert("UTC")
    return placed
