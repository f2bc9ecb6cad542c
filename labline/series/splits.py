"""Which rows train, validate and test: in the order of time, with an embargo between them."""

from __future__ import annotations

from datetime import date

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.errors import BadInput
from labline.series.declaration import SeriesSplit

EMBARGO = "embargo"


def assign_splits(rows: pd.DataFrame, split: SeriesSplit, embargo: int, time_zone: str) -> npt.NDArray[np.object_]:
    """The split of every row: train, validation, test or embargo; N names.

    `rows` has entity and timestamp (datetime64[ns, UTC]), in any order. Only these decide, never a value. A boundary
    is one moment for all entities; of each entity, the `embargo` last rows of train and of validation are left out, so
    that with an embargo of at least the horizon no target of one split is made of rows of the next. Rows of one moment
    count once. Raises BadInput where a split would be empty.
    """
    times = rows["timestamp"]
    train_until, validation_until = _boundaries(times, split, time_zone)
    names = np.where(times <= train_until, "train", np.where(times <= validation_until, "validation", "test"))
    # The place of a row's moment among the moments of its entity in its split, counted from the last.
    from_last = times.groupby([rows["entity"], names], sort=False).rank(method="dense", ascending=False).to_numpy()
    assigned: npt.NDArray[np.object_] = np.where((names != "test") & (from_last <= embargo), EMBARGO, names).astype(
        object
    )
    for name in ("train", "validation", "test"):
        if not (assigned == name).any():
            raise BadInput(
                f"the {name} split is empty: {len(rows)} rows from {times.min()} to {times.max()} with boundaries at "
                f"{train_until} and {validation_until} and {embargo} rows of embargo leave none; expected some "
                "in each: add rows, move the boundaries in data.split, or shorten features.window"
            )
    return assigned


def _boundaries(
    times: pd.Series[pd.Timestamp], split: SeriesSplit, time_zone: str
) -> tuple[pd.Timestamp, pd.Timestamp]:
    """The last moments of train and of validation."""
    if split.train_until is not None and split.validation_until is not None:
        return _end_of(split.train_until, time_zone), _end_of(split.validation_until, time_zone)
    moments = np.sort(times.unique())
    train = int(len(moments) * split.train)
    validation = int(len(moments) * (split.train + split.validation))
    return moments[max(train - 1, 0)], moments[max(validation - 1, 0)]


def _end_of(day: date, time_zone: str) -> pd.Timestamp:
    next_day = pd.Timestamp(day) + pd.Timedelta(days=1)
    local = next_day.tz_localize(time_zone, ambiguous=True, nonexistent="shift_forward")
    return local.tz_convert("UTC") - pd.Timedelta(1, "ns")
