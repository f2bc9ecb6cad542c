"""Copies of production's inputs in training sets: retraining makes them, who deletes feedback wants them gone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from labline.data.feedback import PREFIX
from tasks.environment import storage_root
from tasks.sharing import description, names_of_datasets, remove


def copies_of(ids: Iterable[str]) -> list[Path]:
    """The folders of the storage root whose images are of any of these predictions, sorted.

    Feedback that joined a training (`retraining/<usecase>/feedback/…`), and the data sets that were made of it
    (`stages/…`), those included that only point at the images of another one, and those that lie in the object storage
    behind the storage root alone.
    """
    wanted = set(ids)
    joined = [path.parent for path, found in _joined() if not wanted.isdisjoint(found)]
    datasets = {name: description(name) for name in names_of_datasets()}
    holding = {name for name, folder in datasets.items() if _holds(folder, wanted)}
    pointing = [name for name, folder in datasets.items() if _name_of_images(folder) in holding]
    return sorted({*joined, *(storage_root() / name for name in (*holding, *pointing))})


def delete_copies(folders: Iterable[Path]) -> None:
    """Delete training sets; a data set that is needed again is made again, of what is left."""
    for folder in folders:
        remove(folder.relative_to(storage_root()).as_posix())


def _joined() -> Iterator[tuple[Path, set[str]]]:
    """Files of feedback that joined a training, and whose predictions they hold."""
    import numpy as np

    for path in storage_root().glob("retraining/*/feedback/*/feedback.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            yield path, set(map(str, arrays["ids"]))


def _holds(folder: Path, ids: set[str]) -> bool:
    import pandas as pd

    sampled = pd.read_parquet(folder / "manifest.parquet")
    if "sample_id" not in sampled:
        return False  # a series
    return bool(sampled["sample_id"].isin([f"{PREFIX}{id}" for id in ids]).any())


def _name_of_images(folder: Path) -> str:
    """The stage in whose folder the images lie, seen from a folder two below the storage root."""
    images: str = json.loads((folder / "dataset.json").read_text()).get("images", ".")
    return "/".join(("stages", *Path(os.path.normpath(folder / images)).parent.parts[-2:]))
