"""The window that ends at the latest of some raw rows, as the training chain would have made it of them.

Shape legend: N rows, T rows of a window, F features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.errors import BadInput, nearest
from labline.series.cleaning import clean_series
from labline.series.dataset import complete_windows
from labline.series.features import compute_features
from labline.series.ingest import sample_ids
from labline.series.sources import check_rows, plain_name
from labline.series.usecase import SeriesUseCase

Columns = Mapping[str, Sequence[Any]]

TIMESTAMP = "timestamp"  # what the column of moments may be called besides its declared name
NAME = "rows"
DAY = len("2020-01-31")
# Of the centuries that pandas knows.
MOMENT = re.compile(
    r"(?:1[789]|2[01])\d\d-\d\d-\d\d(?P<clock>[T ]\d\d:\d\d:\d\d(?P<offset>Z|[+-]\d\d:\d\d)?)?", re.ASCII
)


def rows_needed(declaration: SeriesUseCase) -> int:
    """How many rows, the latest included, one forecast needs: its window, what features and cleaning look back on."""
    cleaning = declaration.cleaning
    judged = 2 * cleaning.outlier_window if cleaning.outliers != "keep" else 0
    return declaration.features.rows_needed + judged


def columns_needed(declaration: SeriesUseCase, given: Sequence[str]) -> dict[str, str]:
    """The `given` columns that a forecast reads, by their plain names: the moment first, as TIMESTAMP, then the values.

    Raises BadInput where one is missing, naming the nearest.
    """
    spelled = {plain_name(name): name for name in reversed(given)}
    moment = plain_name(declaration.data.timestamp)
    found = {TIMESTAMP: spelled.get(moment, spelled.get(TIMESTAMP))}
    found |= {name: spelled.get(name) for name in declaration.features.columns}
    for name, spelling in found.items():
        if spelling is None:
            wanted = moment if name == TIMESTAMP else name
            raise BadInput(f"{NAME} have no column {wanted!r}; {nearest(wanted, spelled) if spelled else 'nor any'}")
    return {name: spelling for name, spelling in found.items() if spelling is not None}


def latest_window(columns: Columns, declaration: SeriesUseCase) -> npt.NDArray[np.float32]:
    """The inputs of the forecast whose present is the latest row, float32 T x F.

    `columns` are those of `columns_needed` by their plain names: TIMESTAMP as texts, values as numbers, None where
    missing; rows in any order, all of one series. They are cleaned as declared, and features computed, by the functions
    that training uses; rows before the first one sent are unknown to both.

    Raises BadInput where there are too few rows, a row cannot be read, cleaning takes the latest row, or features of
    the window are undefined: a forecast of an earlier present is none of the present.
    """
    needed = rows_needed(declaration)
    sent = len(columns[TIMESTAMP])
    if sent < needed:
        window = declaration.features.window
        raise BadInput(
            f"{sent} rows were sent; expected at least {needed}, the {window} of the window and {needed - window} that "
            "features and cleaning look back on"
        )
    rows = _orderly(columns, declaration)
    if rows is None:
        rows = _cleaned(columns, declaration)
    features = declaration.features
    features_NF = compute_features(rows, features.inputs)
    if not complete_windows(features_NF, rows["stretch"].to_numpy(), features.window)[-1]:
        raise BadInput(_incomplete(features_NF[-features.window :], rows, declaration))
    return features_NF[-features.window :]


def _orderly(columns: Columns, declaration: SeriesUseCase) -> pd.DataFrame | None:
    """Rows in which there is nothing to clean, as cleaning would leave them; None where it has to look.

    Moments that rise, every value there and usable, steps too even for any to be a gap: seen without pandas, which
    takes thirty times as long.
    """
    cleaning = declaration.cleaning
    if cleaning.outliers != "keep" or declaration.data.timestamp_format is not None:
        return None
    seconds_N = _moments(columns[TIMESTAMP], declaration.data.time_zone)
    if seconds_N is None:
        return None
    steps = np.diff(seconds_N) if len(seconds_N) > 1 else np.ones(1)
    # The usual step lies between the smallest and the largest; days may be an hour of daylight saving off.
    shift = 3600 if len(columns[TIMESTAMP][0]) == DAY else 0
    least, most = steps.min() - shift, steps.max() + shift
    if steps.min() <= 0 or (cleaning.gaps != "keep" and most > (cleaning.longest_gap + 1) * least):
        return None
    values = {name: np.array(columns[name], dtype=np.float64) for name in declaration.features.columns}
    if not all(np.isfinite(values_N).all() for values_N in values.values()):
        return None
    if not all((values[name] > 0).all() for name in declaration.features.positive_columns):
        return None
    return pd.DataFrame({**values, "stretch": np.ones(len(seconds_N), dtype=np.int64)})


def _moments(texts: Sequence[str], time_zone: str) -> npt.NDArray[np.int64] | None:
    """Seconds since 1970 of days, or of times that name their distance from UTC; None of any others."""
    found = [MOMENT.fullmatch(text) for text in texts]
    shapes = {(bool(match["clock"]), bool(match["offset"])) if match else (True, False) for match in found}
    if len(shapes) > 1 or (shapes == {(True, False)} and time_zone != "UTC") or not all(found):
        return None
    distances = {offset: _seconds(offset) for offset in {match["offset"] for match in found if match}}
    try:
        clock_N = np.array([text[:19] for text in texts], dtype="datetime64[s]").astype(np.int64)
    except ValueError:  # the 31st of February
        return None
    seconds_N: npt.NDArray[np.int64] = clock_N - np.array([distances[match["offset"]] for match in found if match])
    return seconds_N


def _seconds(offset: str | None) -> int:
    """A distance from UTC, "Z" or "+hh:mm", in seconds."""
    if offset is None or offset == "Z":
        return 0
    seconds = 3600 * int(offset[1:3]) + 60 * int(offset[4:])
    return -seconds if offset[0] == "-" else seconds


def _cleaned(columns: Columns, declaration: SeriesUseCase) -> pd.DataFrame:
    """Rows read and cleaned by the functions that training uses."""
    values = list(declaration.features.columns)
    settings = declaration.data.model_copy(update={"timestamp": TIMESTAMP, "values": values, "entity": None})
    table = check_rows(pd.DataFrame(dict(columns)), settings, NAME)
    if len(table.problems):
        first = table.problems.iloc[0]
        raise BadInput(f"row {table.rows['line'].loc[table.problems.index[0]]}: {first['reason']}")
    timed = table.rows.sort_values("timestamp", kind="stable").assign(split="", source=NAME)
    manifest = timed.assign(sample_id=sample_ids(timed))
    cleaned = clean_series(manifest, declaration.cleaning, values, declaration.features.positive_columns)
    latest = manifest["timestamp"].iloc[-1]
    if cleaned.manifest.empty or cleaned.manifest["timestamp"].iloc[-1] != latest:
        taken = cleaned.quarantine[cleaned.quarantine["sample_id"].isin(manifest["sample_id"][-1:])]
        reason = f": {taken['reason'].iloc[0]}" if len(taken) else ""
        raise BadInput(f"the latest row, {latest.isoformat()}, is none to forecast from{reason}")
    return cleaned.manifest


def _incomplete(features_TF: npt.NDArray[np.float32], rows: pd.DataFrame, declaration: SeriesUseCase) -> str:
    inputs = declaration.features.inputs
    undefined = [text for at, text in enumerate(inputs) if np.isnan(features_TF[:, at]).any()]
    found = f"no value of {', '.join(undefined)} in some of its rows" if undefined else "too long a gap in it"
    return (
        f"the window that ends at the latest row is not complete: {found}. {len(rows)} rows are left after cleaning; "
        f"expected {declaration.features.rows_needed}, no gap among them longer than {declaration.cleaning.longest_gap}"
    )
