"""Raw rows of a series as windows to be answered: cleaned and computed by the functions that training uses.

```
<folder>/
  features.npy      float32, rows x features
  ends.npy          int64 N: the row at which each window ends, its present
  moments.npy       int64 N: nanoseconds since 1970, UTC
  entities.npy      int64 N: position in entities.parquet
  entities.parquet  entity: the names
```
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from labline.errors import BadInput
from labline.series.cleaning import clean_series
from labline.series.dataset import complete_windows
from labline.series.features import compute_features
from labline.series.ingest import sample_ids
from labline.series.latest import rows_needed
from labline.series.sources import read_series
from labline.series.usecase import SeriesUseCase

Refused = list[tuple[str, str, str, str]]


def write_windows(source: Path, declaration: SeriesUseCase, folder: Path) -> tuple[int, Refused]:
    """Write the windows of every row a forecast can be made at; how many, and why there is none at the others.

    `source` is a .csv or .parquet with the columns that the declaration names; all of its rows are held in memory.
    Raises BadInput where it cannot be read, a column is missing, or no forecast can be made.
    """
    kind = "csv" if source.suffix.lower() == ".csv" else "parquet"
    values = list(declaration.features.columns)
    settings = declaration.data.model_copy(update={"source": kind, "path": str(source), "values": values})
    table = read_series(settings)
    places = f"{table.place} " + table.rows["line"].loc[table.problems.index].astype(str)
    problems = table.problems.assign(sample_id=places)
    refused = _refused(problems)
    usable = table.rows[~table.rows.index.isin(table.problems.index)]
    if usable.empty:
        raise BadInput(f"{source}: no row of it can be used. The first, {refused[0][0]}: {refused[0][3]}")
    timed = usable.sort_values(["entity", "timestamp"], kind="stable").assign(split="", source=table.name)
    manifest = timed.assign(sample_id=sample_ids(timed)).reset_index(drop=True)
    cleaned = clean_series(manifest, declaration.cleaning, values, declaration.features.positive_columns)
    refused += _refused(cleaned.quarantine)
    rows = cleaned.manifest
    features_NF = compute_features(rows, declaration.features.inputs)
    complete_N = complete_windows(features_NF, rows["stretch"].to_numpy(), declaration.features.window)
    if not complete_N.any():
        needed = rows_needed(declaration)
        raise BadInput(
            f"{source}: no forecast can be made from its {len(rows)} rows; each needs {needed} without a gap"
        )
    why = f"the {declaration.features.window} rows that end here are not complete, or not all of their features defined"
    refused += [(str(name), "complete window", "", why) for name in rows["sample_id"][~complete_N]]
    _write(rows, features_NF, np.flatnonzero(complete_N), folder)
    return int(complete_N.sum()), refused


def _refused(rows: pd.DataFrame) -> Refused:
    columns = (rows[name].astype(str).tolist() for name in ("sample_id", "expectation", "value", "reason"))
    return list(zip(*columns, strict=True))


def _write(rows: pd.DataFrame, features_NF: np.ndarray, ends: np.ndarray, folder: Path) -> None:
    codes, names = pd.factorize(rows["entity"].iloc[ends])
    np.save(folder / "features.npy", features_NF)
    np.save(folder / "ends.npy", ends)
    np.save(
        folder / "moments.npy", rows["timestamp"].dt.tz_convert(None).to_numpy("datetime64[ns]")[ends].view(np.int64)
    )
    np.save(folder / "entities.npy", codes.astype(np.int64))
    pd.DataFrame({"entity": names.astype(str)}).to_parquet(folder / "entities.parquet", index=False)
