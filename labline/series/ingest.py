"""From the declared source to a manifest of rows with splits: what cannot be used is quarantined, with a reason."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.data.dataset import QUARANTINE_COLUMNS
from labline.declaration import expand
from labline.errors import BadInput, nearest
from labline.series.declaration import Features, SeriesData, embargo_rows
from labline.series.sources import SeriesRows, read_series
from labline.series.splits import assign_splits

ISO_UNITS: tuple[Literal["D", "m", "s", "ns"], ...] = ("D", "m", "s", "ns")

SHIPPED = ("sp500", "nasdaq")  # with the package arch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestedSeries:
    """The rows of a source.

    `manifest` has sample_id, timestamp (datetime64[ns, UTC]), entity, split (train, validation, test or embargo),
    source, line (where in it the row stood) and the columns `values` (float64, NaN where missing), sorted by entity and
    timestamp. `quarantine` has QUARANTINE_COLUMNS. `disordered` rows came later in the source than a later moment.
    """

    manifest: pd.DataFrame
    quarantine: pd.DataFrame
    values: tuple[str, ...]
    disordered: int


def ingest_series(data: SeriesData, features: Features) -> IngestedSeries:
    """Read the declared source and assign splits.

    Splits are decided before a value is looked at, so that no value moves a boundary. Raises BadInput where the source
    cannot be used: not found, not understood, a column missing, too few rows, more rows refused than
    data.max_rejected.
    """
    source = read_series(data)
    for name in features.columns:
        if name not in source.values:
            hint = nearest(name, source.values)
            raise BadInput(f"{source.name} has no column of numbers {name!r}, which features reads; {hint}")
    usable = ~source.rows.index.isin(source.problems.index)
    _refuse_too_many(source, int(usable.sum()), data)
    timed = source.rows[source.rows["timestamp"].notna()].sort_values(["entity", "timestamp"], kind="stable")
    _refuse_too_few(source, len(timed), features)
    split = assign_splits(timed, data.split, embargo_rows(data.split, features), data.time_zone)
    named = timed.assign(split=split, source=source.name, sample_id=sample_ids(timed))
    disordered = int((named.groupby("entity", sort=False)["line"].diff() < 0).sum())
    if disordered:
        logger.warning("%s: %d rows were not in the order of time and have been put in it", source.name, disordered)
    columns = ["sample_id", "timestamp", "entity", "split", "source", "line", *source.values]
    return IngestedSeries(
        manifest=named.loc[usable[named.index], columns].reset_index(drop=True),
        quarantine=_quarantine(source, named),
        values=source.values,
        disordered=disordered,
    )


def write_ingested(ingested: IngestedSeries, directory: Path) -> str:
    """Write manifest.parquet and quarantine.parquet; returns the digest of `write_rows`."""
    return write_rows(ingested.manifest, ingested.quarantine, directory)


def write_rows(manifest: pd.DataFrame, quarantine: pd.DataFrame, directory: Path) -> str:
    """Write both tables; returns the sha256 of the rows that are left, without where they came from."""
    directory.mkdir(parents=True, exist_ok=True)
    manifest.to_parquet(directory / "manifest.parquet", index=False)
    quarantine.astype(str).to_parquet(directory / "quarantine.parquet", index=False)
    known = manifest.drop(columns=["source", "line"])
    digest = hashlib.sha256(repr(list(known.columns)).encode())
    digest.update(pd.util.hash_pandas_object(known, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def fingerprint(data: SeriesData) -> str:
    """sha256 that changes when the source has: of the file, of the options, of the package that ships the prices."""
    digest = hashlib.sha256(json.dumps(data.options, sort_keys=True, default=str).encode())
    path = expand(data.path, "data.path") if data.path else None
    if path is not None and path.is_file():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    if data.source in SHIPPED:
        digest.update(version("arch").encode())
    return digest.hexdigest()


def sample_ids(rows: pd.DataFrame) -> pd.Series[Any]:
    """`<entity>/<moment in ISO 8601, UTC>`; later rows of the same entity and moment get #2, #3 and so on.

    As precise as the most precise row: the date alone where every row is at midnight UTC. `rows` has entity
    and timestamp.
    """
    moments = rows["timestamp"].dt.tz_localize(None).to_numpy("datetime64[ns]")
    unit = next(unit for unit in ISO_UNITS if (moments == moments.astype(f"datetime64[{unit}]")).all())
    text: npt.NDArray[np.str_] = np.datetime_as_string(moments, unit=unit)
    zone = "" if unit == "D" else "Z"
    named = rows["entity"] + "/" + pd.Series(text.astype(object), rows.index) + zone
    again = rows.groupby(["entity", "timestamp"], sort=False).cumcount()
    repeated = again > 0
    named[repeated] += "#" + (again[repeated] + 1).astype(str)
    return named


def _quarantine(source: SeriesRows, named: pd.DataFrame) -> pd.DataFrame:
    """The problems as rows of the quarantine; a row without a moment is called by its place."""
    problems = source.problems
    lines = source.rows.loc[problems.index, "line"].astype(str)
    described = problems.assign(
        sample_id=named["sample_id"].reindex(problems.index).fillna(f"{source.place} " + lines),
        split=named["split"].reindex(problems.index).fillna(""),
        label="",
        source=source.name + ":" + lines,
        stage="ingest",
        reason=f"{source.place} " + lines + ", " + problems["reason"],
    )
    return described[list(QUARANTINE_COLUMNS)].reset_index(drop=True)


def _refuse_too_many(source: SeriesRows, usable: int, data: SeriesData) -> None:
    total = len(source.rows)
    if usable and (total - usable) / total <= data.max_rejected:
        return
    first = source.problems.iloc[0]
    line = source.rows["line"].loc[source.problems.index[0]]
    limit = f"more than data.max_rejected = {data.max_rejected:g} allows" if usable else "so nothing is left"
    raise BadInput(
        f"{source.name}: {total - usable} of {total} rows were refused, {limit}. The first, {source.place} {line}: "
        f"{first['reason']}. Mend or remove them, or raise data.max_rejected."
    )


def _refuse_too_few(source: SeriesRows, rows: int, features: Features) -> None:
    """One window with its target is the least; three splits and their embargo take more, and say so themselves."""
    needed = 3 * (features.rows_needed + features.horizon)
    if rows < needed:
        raise BadInput(
            f"{source.name} has {rows} rows; expected at least {needed}: each of train, validation and test needs "
            f"{features.rows_needed} rows of inputs and {features.horizon} of target. Add rows, or shorten "
            "features.window or features.horizon."
        )
