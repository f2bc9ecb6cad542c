"""What a source holds, before any image is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.data.dataset import QUARANTINE_COLUMNS
from labline.declaration import expand
from labline.errors import BadInput, nearest
from labline.usecase import Data

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}  # what folders and columns call the splits


@dataclass(frozen=True)
class Listing:
    """The samples of a source.

    `samples`: sample_id, split ("" where the source gives none), label, source; where `content` is a folder or
    a .zip, also file: the member to read. Otherwise `content` holds the images themselves, uint8 NHW or NHWC, in
    the order of `samples`. `labels`: the classes in the order of their indices, those without a sample too.
    `quarantined`: what was refused at sight, with QUARANTINE_COLUMNS.
    """

    samples: pd.DataFrame
    content: Path | npt.NDArray[np.uint8]
    labels: tuple[str, ...]
    quarantined: pd.DataFrame

    def with_declared_labels(self, declared: Sequence[str]) -> Listing:
        """Only the declared classes, in that order; samples of others are refused with the nearest name."""
        labels = self.samples["label"]
        known = labels.isin(declared).to_numpy()
        hints = {name: f"it is not in data.labels; {nearest(name, declared)}" for name in labels[~known].unique()}
        strangers = self.samples[~known]
        refused = refuse(strangers, "unknown-label", strangers["label"], strangers["label"].map(hints))
        return Listing(
            samples=self.samples[known].reset_index(drop=True),
            content=self.content if isinstance(self.content, Path) or known.all() else self.content[known],
            labels=tuple(declared),
            quarantined=pd.concat([self.quarantined, refused], ignore_index=True),
        )


def refuse(
    rows: pd.DataFrame, expectation: str | pd.Series[Any], value: str | pd.Series[Any], reason: str | pd.Series[Any]
) -> pd.DataFrame:
    """Rows of `Listing.samples` as rows of the quarantine; `expectation` is the kind of refusal."""
    refused = rows.assign(stage="ingest", expectation=expectation, value=value, reason=reason)
    return refused[list(QUARANTINE_COLUMNS)]


def source_path(settings: Data, expected: str) -> Path:
    """The declared path, expanded; raises BadInput where none is declared or nothing is there."""
    if settings.path is None:
        raise BadInput(f"data.source = {settings.source!r} needs data.path: {expected}")
    path = expand(settings.path, "data.path")
    if not path.exists():
        raise BadInput(f"data.path: there is nothing at {path.absolute()}; expected {expected}")
    return path


def check_options(settings: Data, valid: Sequence[str]) -> None:
    """Raise BadInput naming an option that the source does not have."""
    for name in settings.options:
        if name not in valid:
            hint = nearest(name, valid) if valid else "it has none"
            raise BadInput(f"data.options.{name} is no option of the source {settings.source!r}; {hint}")
