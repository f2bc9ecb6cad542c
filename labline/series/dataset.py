"""The series data set on disk, and windows of it that are built when they are asked for.

```
<directory>/
  dataset.json        what Description holds
  manifest.parquet    one row a timestamp and entity, sorted by entity and timestamp: sample_id, timestamp, entity,
                      split (train, validation, test or embargo), source, line, the value columns, stretch (rows that
                      share it follow each other without too long a gap) and complete (a window of inputs ends here)
  features.npy        float32, rows x features: raw, unscaled; NaN where there is none
  targets.npy         float32, rows; NaN where the target is unknown or reaches into another split
  quarantine.parquet  rejected rows: QUARANTINE_COLUMNS
```
Shape legend: N samples, B of them in a batch, T rows of a window, F features.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.data.cleaning import Cleaned
from labline.data.dataset import QUARANTINE_COLUMNS, SPLITS, SplitName
from labline.errors import BadInput
from labline.series.declaration import Features
from labline.series.features import compute_features, compute_target, position_in_stretch
from labline.series.splits import EMBARGO

CHUNK_ROWS = 1 << 18  # of features read at once where all of them are looked at


@dataclass(frozen=True)
class Description:
    """What dataset.json holds: how inputs and target were made, and of which entities."""

    inputs: tuple[str, ...]
    window: int
    target: str
    horizon: int
    price: str
    entities: tuple[str, ...]


@dataclass(frozen=True)
class SeriesDataset:
    """A data set opened for reading; `features` (float32 rows x F) and `targets` (float32 rows) are memory maps."""

    directory: Path
    description: Description
    features: npt.NDArray[np.float32]
    targets: npt.NDArray[np.float32]

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """All of the manifest, read when first asked for."""
        return pd.read_parquet(self.directory / "manifest.parquet")


@dataclass(frozen=True)
class Windows:
    """The samples of a split.

    `indices` are the rows, int64 N, at which they end: the present of each forecast. `batch` gathers those asked for.
    """

    features: npt.NDArray[np.float32]
    targets: npt.NDArray[np.float32]
    indices: npt.NDArray[np.int64]
    window: int

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, positions_B: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Inputs (float32 B x T x F) and targets (float32 B) of the samples at `positions_B`, copied out of the map."""
        ends_B = self.indices[np.asarray(positions_B, dtype=np.int64)]
        rows_BT = ends_B[:, None] + np.arange(1 - self.window, 1)
        return self.features[rows_BT], self.targets[ends_B]


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of each feature (float32 F) and of the target, over training windows alone."""

    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    target_mean: float
    target_std: float


def write_series(cleaned: Cleaned, features: Features, directory: Path, earlier: pd.DataFrame | None = None) -> str:
    """Compute features and targets of cleaned rows, write the data set and return its content digest.

    `earlier` is what other stages put into quarantine. Raises BadInput where an expression cannot be computed, a split
    has no complete window, or a feature or the target does not vary over the training windows.
    """
    rows = cleaned.manifest
    _refuse_nothing(rows)
    directory.mkdir(parents=True, exist_ok=True)
    shape = (len(rows), len(features.inputs))
    stored_NF = np.lib.format.open_memmap(directory / "features.npy", mode="w+", dtype=np.float32, shape=shape)
    compute_features(rows, features.inputs, stored_NF)
    stored_NF.flush()
    np.save(directory / "targets.npy", _within_split(compute_target(rows, features), rows, features.horizon))
    complete = complete_windows(stored_NF, rows["stretch"].to_numpy(), features.window)
    rows.assign(complete=complete).to_parquet(directory / "manifest.parquet", index=False)
    tables = [table for table in (earlier, cleaned.quarantine) if table is not None and len(table)]
    quarantine = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(QUARANTINE_COLUMNS))
    quarantine.astype(str).to_parquet(directory / "quarantine.parquet", index=False)
    entities = tuple(map(str, rows["entity"].unique()))
    description = Description(
        tuple(features.inputs), features.window, features.target, features.horizon, features.price, entities
    )
    (directory / "dataset.json").write_text(json.dumps(asdict(description), indent=2))
    dataset = open_series(directory)
    _refuse_useless(dataset, str(rows["source"].iloc[0]))
    return series_digest(dataset)


def open_series(directory: Path) -> SeriesDataset:
    """Open a data set without reading its rows."""
    described = json.loads((directory / "dataset.json").read_text())
    lists = {name: tuple(described[name]) for name in ("inputs", "entities")}
    return SeriesDataset(
        directory=directory,
        description=Description(**described | lists),
        features=np.load(directory / "features.npy", mmap_mode="r"),
        targets=np.load(directory / "targets.npy", mmap_mode="r"),
    )


def windows(dataset: SeriesDataset, split: SplitName, targets: bool = True) -> Windows:
    """The samples of a split; with `targets` false also those whose target is not known yet, for forecasting.

    Inputs of validation and test may reach back into the embargo, never into another entity or over too long a gap.
    """
    rows = pd.read_parquet(dataset.directory / "manifest.parquet", columns=["split", "complete"])
    chosen = (rows["split"] == split).to_numpy() & rows["complete"].to_numpy()
    if targets:
        chosen &= ~np.isnan(dataset.targets)
    return Windows(dataset.features, dataset.targets, np.flatnonzero(chosen), dataset.description.window)


def complete_windows(
    features_NF: npt.NDArray[np.float32], stretch_N: npt.NDArray[Any], window: int
) -> npt.NDArray[np.bool_]:
    """Whether the `window` rows that end at each row lie in one stretch and have every feature; N."""
    rows = len(features_NF)
    whole_N = np.empty(rows, dtype=bool)
    for start in range(0, rows, CHUNK_ROWS):
        whole_N[start : start + CHUNK_ROWS] = ~np.isnan(features_NF[start : start + CHUNK_ROWS]).any(axis=1)
    index_N = np.arange(rows)
    since_broken_N = index_N - np.maximum.accumulate(np.where(whole_N, -1, index_N))
    complete_N: npt.NDArray[np.bool_] = (since_broken_N >= window) & (position_in_stretch(stretch_N) >= window - 1)
    return complete_N


def scaling(samples: Windows) -> Scaling:
    """Statistics for the network's scalers, from the windows of the training split.

    Each row counts once, however many windows hold it. The standard deviations are of the population, and 1 where
    nothing varies.
    """
    covered = np.flatnonzero(_covered(samples))
    total = np.zeros((2, samples.features.shape[1]))
    first_F = samples.features[covered[0]].astype(np.float64)  # sums around a typical value lose no precision
    for start in range(0, len(covered), CHUNK_ROWS):
        distance_NF = samples.features[covered[start : start + CHUNK_ROWS]].astype(np.float64) - first_F
        total += distance_NF.sum(axis=0), (distance_NF**2).sum(axis=0)
    mean_F, square_F = total / len(covered)
    std_F = np.sqrt(np.maximum(square_F - mean_F**2, 0)).astype(np.float32)
    targets_N = samples.targets[samples.indices].astype(np.float64)
    return Scaling(
        mean=(first_F + mean_F).astype(np.float32),
        std=np.where(std_F > 0, std_F, 1).astype(np.float32),
        target_mean=float(targets_N.mean()),
        target_std=float(targets_N.std()) or 1.0,
    )


def series_digest(dataset: SeriesDataset) -> str:
    """sha256 over the description, the identity and split of every row, features and targets."""
    digest = hashlib.sha256((dataset.directory / "dataset.json").read_bytes())
    identity = pd.read_parquet(dataset.directory / "manifest.parquet", columns=["sample_id", "split", "complete"])
    digest.update(pd.util.hash_pandas_object(identity, index=False).to_numpy().tobytes())
    for array in (dataset.features, dataset.targets):
        for start in range(0, len(array), CHUNK_ROWS):
            digest.update(array[start : start + CHUNK_ROWS].tobytes())
    return digest.hexdigest()


def _covered(samples: Windows) -> npt.NDArray[np.bool_]:
    """Which rows any of the windows holds."""
    edges = np.zeros(len(samples.features) + 1, dtype=np.int64)
    edges[samples.indices - samples.window + 1] += 1
    edges[samples.indices + 1] -= 1
    covered: npt.NDArray[np.bool_] = np.cumsum(edges[:-1]) > 0
    return covered


def _within_split(targets_N: npt.NDArray[np.float32], rows: pd.DataFrame, horizon: int) -> npt.NDArray[np.float32]:
    """Targets, unknown where they reach into the next split: cleaning may have taken rows out of the embargo."""
    split_N = rows["split"].to_numpy()
    same_N = (split_N[horizon:] == split_N[:-horizon]) | (split_N[horizon:] == EMBARGO)
    kept_N = np.full_like(targets_N, np.nan)
    kept_N[:-horizon][same_N] = targets_N[:-horizon][same_N]
    return kept_N


def _refuse_nothing(rows: pd.DataFrame) -> None:
    if rows.empty:
        raise BadInput("cleaning left no rows; expected some: look at quarantine, and at the policies in [cleaning]")


def _refuse_useless(dataset: SeriesDataset, source: str) -> None:
    """Raise BadInput where there is nothing to learn from or to be judged on."""
    described = dataset.description
    for name in SPLITS:
        if not len(windows(dataset, name)):
            raise BadInput(
                f"{source}: the {name} split has no window of {described.window} rows with every feature and a target "
                f"{described.horizon} rows ahead; expected one or more: add rows, shorten features.window, or look at "
                "quarantine for what cleaning took"
            )
    samples = windows(dataset, "train")
    covered = np.flatnonzero(_covered(samples))
    columns = [(f"feature {text!r}", dataset.features[covered, at]) for at, text in enumerate(described.inputs)]
    for what, values in [
        *columns,
        (f"target {described.target!r} of {described.price!r}", samples.targets[samples.indices]),
    ]:
        if (values == values[0]).all():
            raise BadInput(
                f"{source}: the {what} is {values[0]:g} at all of the {len(values)} training rows, the first included; "
                "expected values that vary: leave it out of features, or look at that column of the file"
            )
