"""Replay of a series: what a client would have asked at each moment, and what turned out to be true.

Pure, as `labline.replay`, whose samples it makes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import date

import numpy as np
import pandas as pd

from labline.errors import BadInput
from labline.packaged_model import DIRECTIONS
from labline.replay import Sample
from labline.series.features import compute_target
from labline.series.latest import TIMESTAMP, rows_needed
from labline.series.usecase import SeriesUseCase

JSON = "application/json"
DATES = "expected a day in ISO 8601, such as 2007-01-01"


def later_rows(rows: pd.DataFrame, declaration: SeriesUseCase, since: date | None = None) -> Iterator[Sample]:
    """A question for every moment a forecast can be made at: from the day `since` on, or in the test split.

    `rows` is the manifest of the data set that the version was judged on. Each body holds the raw rows that the
    forecast needs, the last one the present, in the order of time over all entities. The truth is the realised target,
    which is known once a moment `horizon` rows later has been sent; it is None where the series ends before.
    Raises BadInput where there is no such moment.
    """
    rows = rows.reset_index(drop=True)
    needed = rows_needed(declaration)
    targets_N = compute_target(rows, declaration.features)
    horizon = declaration.features.horizon
    known_N = rows.groupby("entity", sort=False)["timestamp"].shift(-horizon)
    enough_N = rows.groupby("entity", sort=False).cumcount() >= needed - 1
    wanted_N = rows["split"] == "test" if since is None else rows["timestamp"] >= _midnight(since, declaration)
    present = rows[wanted_N & rows["complete"] & enough_N].sort_values("timestamp", kind="stable").index.to_numpy()
    if not len(present):
        last = rows["timestamp"].max().date()
        raise BadInput(
            f"no forecast can be made {f'from {since} on' if since else 'in the test split'}: {last} is last"
        )
    sent_at, known_at = (moments.dt.tz_convert(None).to_numpy()[present] for moments in (rows["timestamp"], known_N))
    known_from = np.searchsorted(sent_at, known_at)  # a moment that never comes is NaT, which sorts last

    def ask() -> Iterator[Sample]:
        for number, row in enumerate(present):
            truth = _truth(targets_N[row], declaration)
            name = str(rows["sample_id"].iloc[row])
            body = _body(rows.iloc[row - needed + 1 : row + 1], declaration)
            yield Sample(body, JSON, name, truth, int(known_from[number]) - number)

    return ask()


def moments(rows: pd.DataFrame, declaration: SeriesUseCase, since: date | None = None) -> int:
    """How many samples `later_rows` has at most."""
    wanted = rows["split"] == "test" if since is None else rows["timestamp"] >= _midnight(since, declaration)
    return int((wanted & rows["complete"]).sum())


def parse_day(written: str) -> date:
    """The day of --from; raises BadInput where it is none."""
    try:
        return date.fromisoformat(written)
    except ValueError:
        raise BadInput(f"--from {written}: {DATES}") from None


def _midnight(day: date, declaration: SeriesUseCase) -> pd.Timestamp:
    return pd.Timestamp(day, tz=declaration.data.time_zone)


def _truth(target: float, declaration: SeriesUseCase) -> str | float | None:
    if np.isnan(target):
        return None
    return DIRECTIONS[int(target)] if declaration.features.target == "direction" else float(target)


def _body(rows: pd.DataFrame, declaration: SeriesUseCase) -> bytes:
    """Rows as a client sends them: the moment, and the columns that features read; null where a value is missing."""
    moments = rows["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    columns: dict[str, list[str | float | None]] = {TIMESTAMP: moments.tolist()}
    columns |= {
        name: [None if math.isnan(value) else value for value in rows[name].tolist()]
        for name in declaration.features.columns
    }
    sent = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return json.dumps({"rows": sent}).encode()
