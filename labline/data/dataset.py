"""The on-disk dataset: a manifest of rows beside one memory-mapped array of images.

```
<directory>/
  dataset.json        class names, and where images.npy lies (a cleaned dataset points at the ingested one)
  manifest.parquet    one row a sample: MANIFEST_COLUMNS
  images.npy          uint8, N x height x width x channels
  quarantine.parquet  rejected rows: QUARANTINE_COLUMNS
```
Decoded once, never decoded again: expectations and cleaning work on the manifest, training on the array.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
MANIFEST_COLUMNS = (
    "sample_id",  # unique and stable: the path inside the source, such as crazing/crazing_1.jpg
    "split",  # train | validation | test
    "label",  # class name
    "row",  # position in images.npy
    "source",  # where the sample was read from
    "sha256",  # of the encoded file (of the pixels where the source is an array)
    "width",  # pixels of the original
    "height",
    "bytes",  # size of the encoded file
    "mean",  # of the stored pixels, 0 to 255
    "std",
)
QUARANTINE_COLUMNS = ("sample_id", "split", "label", "source", "stage", "expectation", "value", "reason")


@dataclass(frozen=True)
class MappedImages:
    """Rows of a memory-mapped array, read when they are asked for: uint8 N x height x width x channels."""

    array: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]

    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""
        return (len(self.rows), *self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Some of them, copied out of the map."""
        return self.array[self.rows[chosen]]


@dataclass(frozen=True)
class Dataset:
    """A dataset opened for reading.

    `images` is a read-only memory map, uint8 NHWC, of the file `array`; `manifest` has MANIFEST_COLUMNS and
    its `row` column points into `images`; `labels` are the class names, in the order of the class indices.
    """

    directory: Path
    manifest: pd.DataFrame
    images: npt.NDArray[np.uint8]
    labels: tuple[str, ...]
    array: Path

    @cached_property
    def targets(self) -> npt.NDArray[np.int64]:
        """Class index of every manifest row."""
        return pd.Categorical(self.manifest["label"], categories=self.labels).codes.astype(np.int64)

    def split(self, name: SplitName) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Images (uint8 NHWC, copied out of the map) and class indices of one split, in manifest order."""
        chosen = (self.manifest["split"] == name).to_numpy()
        return self.images[self.manifest["row"].to_numpy()[chosen]], self.targets[chosen]

    def mapped(self, name: SplitName) -> tuple[MappedImages, npt.NDArray[np.int64]]:
        """The same as `split`, but that no image is read before it is asked for."""
        chosen = (self.manifest["split"] == name).to_numpy()
        return MappedImages(self.images, self.manifest["row"].to_numpy()[chosen]), self.targets[chosen]

    def rows(self, name: SplitName) -> pd.DataFrame:
        """The manifest rows of one split, in the order of `split`."""
        return self.manifest[self.manifest["split"] == name]


def write_dataset(
    directory: Path,
    manifest: pd.DataFrame,
    labels: tuple[str, ...],
    images: Path,
    quarantine: pd.DataFrame | None = None,
) -> str:
    """Write everything of a dataset but its array, which lies at `images` already; return the content digest."""
    rejected = pd.DataFrame(columns=list(QUARANTINE_COLUMNS)) if quarantine is None else quarantine
    manifest.to_parquet(directory / "manifest.parquet", index=False)
    rejected.astype(str).to_parquet(directory / "quarantine.parquet", index=False)
    description = {"labels": list(labels), "images": os.path.relpath(images, directory)}
    (directory / "dataset.json").write_text(json.dumps(description, indent=2))
    return dataset_digest(manifest, labels)


def open_dataset(directory: Path) -> Dataset:
    """Open a dataset without reading its pixels."""
    description = json.loads((directory / "dataset.json").read_text())
    array = (directory / description["images"]).resolve()
    return Dataset(
        directory=directory,
        manifest=pd.read_parquet(directory / "manifest.parquet"),
        images=np.load(array, mmap_mode="r"),
        labels=tuple(description["labels"]),
        array=array,
    )


def dataset_digest(manifest: pd.DataFrame, labels: tuple[str, ...]) -> str:
    """sha256 over class names and the identity, split, label and content of every row, in order."""
    digest = hashlib.sha256("\0".join(labels).encode())
    identity = manifest[["sample_id", "split", "label", "sha256"]]
    digest.update(pd.util.hash_pandas_object(identity, index=False).to_numpy().tobytes())
    return digest.hexdigest()
