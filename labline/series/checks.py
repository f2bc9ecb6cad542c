"""What a suite of expectations can look at in a series besides its own columns: order, gaps, staleness, jumps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from labline.series.cleaning import missing_steps, trailing_score
from labline.series.sources import RESERVED

PRICES = ("open", "high", "low", "close")
RETURN_WINDOW = 60  # earlier returns that judge a return: a quarter of a year of trading days
CHECKED_COLUMNS = (
    "seconds_since_previous",  # of the same entity; below 0 is out of order; missing on its first row
    "rows_of_moment",  # rows of the same entity and timestamp, this one included
    "missing_steps",  # rows missing before this one, going by the usual step of the rows before
    "missing_values",  # value columns that are empty here
    "smallest_price",  # of the declared price and open, high, low and close, where there are such columns
    "range_violation",  # by what share of the close open or close lie outside of low to high; missing without all four
    "unchanged_rows",  # how many rows before this one, without a break, had the same price
    "return_score",  # robust standard deviations between this return and the 60 returns before it, without sign
    "rows_of_split",  # rows of this entity in this split
)


def checked_columns(manifest: pd.DataFrame, price: str = "close") -> pd.DataFrame:
    """The manifest with CHECKED_COLUMNS; each is float64 or int64 and missing where it does not apply.

    `manifest` has timestamp, entity, split and value columns (float64), in the order that is to be judged. `price` is
    the column whose staleness and returns are looked at: log returns, or differences once it has not been positive;
    without it, they are missing. All but rows_of_moment and rows_of_split come from a row and those before it.
    """
    entity = manifest["entity"]
    by_entity = manifest.groupby(entity, sort=False)
    values = [name for name in manifest.select_dtypes("float").columns if name not in (*RESERVED, *CHECKED_COLUMNS)]
    prices = [name for name in dict.fromkeys((price, *PRICES)) if name in values]
    priced = manifest[price] if price in values else pd.Series(np.nan, manifest.index)
    return manifest.assign(
        seconds_since_previous=by_entity["timestamp"].diff().dt.total_seconds(),
        rows_of_moment=manifest.groupby(["entity", "timestamp"], sort=False)["split"].transform("size"),
        missing_steps=_missing_steps(manifest),
        missing_values=manifest[values].isna().sum(axis=1),
        smallest_price=manifest[prices].min(axis=1).astype(np.float64),
        range_violation=_range_violation(manifest, values),
        unchanged_rows=_unchanged_rows(priced, entity),
        return_score=_return_score(priced, entity),
        rows_of_split=manifest.groupby(["entity", "split"], sort=False)["split"].transform("size"),
    )


def _missing_steps(manifest: pd.DataFrame) -> pd.Series[Any]:
    """Aligned with the manifest whatever its order: counted entity by entity."""
    together = manifest.sort_values("entity", kind="stable")
    return missing_steps(together).reindex(manifest.index)


def _range_violation(manifest: pd.DataFrame, values: list[str]) -> pd.Series[Any]:
    if not set(PRICES) <= set(values):
        return pd.Series(np.nan, manifest.index)
    above = manifest[["open", "close"]].max(axis=1) - manifest["high"]
    below = manifest["low"] - manifest[["open", "close"]].min(axis=1)
    outside = pd.concat([above, below], axis=1).max(axis=1, skipna=False).clip(lower=0)
    violation: pd.Series[Any] = (outside / manifest["close"].abs()).where(manifest[list(PRICES)].notna().all(axis=1))
    return violation


def _unchanged_rows(price: pd.Series[Any], entity: pd.Series[Any]) -> pd.Series[Any]:
    changed = price.ne(price.groupby(entity, sort=False).shift())
    run = changed.groupby(entity, sort=False).cumsum()
    unchanged: pd.Series[Any] = price.groupby([entity, run], sort=False).cumcount().where(price.notna())
    return unchanged


def _return_score(price: pd.Series[Any], entity: pd.Series[Any]) -> pd.Series[Any]:
    """Of log returns as long as an entity's price has been positive throughout, of differences from then on."""
    together = price.loc[entity.sort_values(kind="stable").index]  # what the past of a return is must be of its entity
    groups = together.groupby(entity.loc[together.index], sort=False)
    position_N = groups.cumcount().to_numpy()
    before = groups.shift()
    positive = groups.cummin() > 0
    returns = np.log(together.where(positive)) - np.log(before.where(positive))
    scores = [trailing_score(changes, position_N, RETURN_WINDOW)["score"] for changes in (returns, together - before)]
    return scores[0].where(positive, scores[1]).abs().reindex(price.index)
