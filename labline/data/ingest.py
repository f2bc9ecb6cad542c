"""From the declared source to a dataset on disk: every sample decoded once, what cannot be is quarantined."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from labline.data.dataset import MANIFEST_COLUMNS, QUARANTINE_COLUMNS, write_dataset
from labline.data.decoding import Refusal
from labline.data.feedback import join_feedback
from labline.data.listing import Listing, refuse
from labline.data.sources import list_source
from labline.data.splits import assign_splits
from labline.data.storing import Facts, Job, Progress, store_array, store_files
from labline.declaration import expand
from labline.errors import BadInput
from labline.sharding import Pool
from labline.usecase import Data

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ingested:
    """What became of the source.

    `samples` were stored and `quarantined` were not; `digest` is of the content (see `dataset_digest`); `labels`
    are the classes in the order of their indices; `empty_labels` are class folders that hold no usable image.
    """

    samples: int
    quarantined: int
    digest: str
    labels: tuple[str, ...]
    empty_labels: tuple[str, ...]


def ingest(
    settings: Data,
    directory: Path,
    workers: int | None = None,
    on_progress: Progress | None = None,
    pool: Pool | None = None,
) -> Ingested:
    """Write the declared source as a dataset into `directory` (see `labline.data.dataset`).

    `workers` are decoding processes (default: as many as there are processors, one for small data), unless a `pool`
    decodes; the result does not depend on them. `on_progress` is told the number of samples done and their total.
    Raises BadInput where the source cannot be used: not found or not understood, no image, a share of refused
    samples above data.max_rejected, fewer than two classes, a class without or with too few samples. An OSError
    of `directory` (full, read-only) passes through, and what was written by then is of no use.
    """
    listing = list_source(settings)
    if listing.samples.empty and listing.quarantined.empty:
        raise BadInput(f"{_where(settings)} holds no images; expected one folder of images for each class")
    directory.mkdir(parents=True, exist_ok=True)
    images = directory / "images.npy"
    outcomes = _store(listing, settings, images, workers, on_progress, pool)
    accepted, refused = _sort_out(listing, outcomes)
    quarantined = pd.concat([listing.quarantined, refused], ignore_index=True)
    _refuse_too_many(quarantined, len(accepted), settings)
    labels = _inhabited_labels(listing, accepted, settings)
    manifest = accepted.assign(split=assign_splits(list(accepted["label"]), list(accepted["split"]), settings.split))
    if settings.feedback is not None:
        manifest = join_feedback(manifest, images, expand(settings.feedback, "data.feedback"), labels)
    digest = write_dataset(directory, manifest[list(MANIFEST_COLUMNS)], labels, images, quarantined)
    empty = tuple(label for label in listing.labels if label not in labels)
    return Ingested(len(manifest), len(quarantined), digest, labels, empty)


def fingerprint(settings: Data) -> str:
    """sha256 that changes when the source may have, found without reading the images: by names, sizes and times.

    What a package downloads is published and does not change; of the user's own function, its module counts.
    """
    digest = hashlib.sha256(json.dumps(settings.options, sort_keys=True, default=str).encode())
    for trace in _traces(settings):
        digest.update(f"{trace}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _store(
    listing: Listing,
    settings: Data,
    images: Path,
    workers: int | None,
    on_progress: Progress | None,
    pool: Pool | None,
) -> Sequence[Facts | Refusal]:
    if not isinstance(listing.content, Path):
        return store_array(listing.content, images, settings.image_size, settings.channels, on_progress)
    job = Job(listing.content.absolute(), images, settings.image_size, settings.channels, settings.max_pixels)
    return store_files(job, list(listing.samples["file"]), workers, on_progress, pool)


def _sort_out(listing: Listing, outcomes: Sequence[Facts | Refusal]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest of what was stored, its splits still the source's, and the quarantine of what was refused."""
    samples = listing.samples.assign(row=np.arange(len(listing.samples)))
    refused = np.array([isinstance(outcome, Refusal) for outcome in outcomes], dtype=bool)
    facts = pd.DataFrame([vars(outcome) for outcome in outcomes if isinstance(outcome, Facts)])
    reasons = pd.DataFrame([vars(outcome) for outcome in outcomes if isinstance(outcome, Refusal)])
    accepted = pd.concat([samples[~refused].reset_index(drop=True), facts], axis=1)
    if reasons.empty:
        return accepted, pd.DataFrame(columns=list(QUARANTINE_COLUMNS), dtype=object)
    rejected = pd.concat([samples[refused].reset_index(drop=True), reasons], axis=1)
    return accepted, refuse(rejected, rejected["kind"], rejected["value"], rejected["reason"])


def _refuse_too_many(quarantined: pd.DataFrame, accepted: int, settings: Data) -> None:
    share = len(quarantined) / (len(quarantined) + accepted)
    if accepted and share <= settings.max_rejected:
        return
    commonest = quarantined.groupby("expectation", sort=False)["sample_id"].agg(["size", "first"]).nlargest(3, "size")
    reasons = "; ".join(f"{kind}: {row['size']}, such as {row['first']}" for kind, row in commonest.iterrows())
    limit = f"more than data.max_rejected = {settings.max_rejected:g} allows" if accepted else "so nothing is left"
    raise BadInput(
        f"{_where(settings)}: {len(quarantined)} of {len(quarantined) + accepted} samples ({share:.1%}) were refused, "
        f"{limit} ({reasons}). Mend or remove them, or raise data.max_rejected."
    )


def _inhabited_labels(listing: Listing, accepted: pd.DataFrame, settings: Data) -> tuple[str, ...]:
    """The classes that have samples, in their order; a declared class must have some, a folder need not."""
    found = set(accepted["label"])
    empty = [label for label in listing.labels if label not in found]
    if empty and settings.labels is not None:
        raise BadInput(
            f"data.labels declares {empty[0]!r}, but {_where(settings)} holds no usable image of it; "
            f"classes with images: {', '.join(sorted(found))}"
        )
    for label in empty:
        logger.warning("%s: class %r has no usable image and is left out", _where(settings), label)
    if len(found) < 2:
        raise BadInput(f"{_where(settings)} holds images of one class only, {found.pop()!r}; expected two or more")
    return tuple(label for label in listing.labels if label in found)


def _where(settings: Data) -> str:
    return f"data.source = {settings.source!r}" + (f" at {settings.path}" if settings.path else "")


def _traces(settings: Data) -> Iterator[str]:
    """Lines that stay the same while the source does."""
    if ":" in settings.source:
        yield _module_digest(settings.source.partition(":")[0])
    if settings.feedback is not None:
        yield _content(expand(settings.feedback, "data.feedback"))
    if settings.path is None or settings.options.get("download"):
        return
    path = expand(settings.path, "data.path")
    yield _trace(path)
    for folder, folders, files in os.walk(path, followlinks=True):
        folders.sort()
        yield folder
        yield from (_trace(Path(folder, name)) for name in sorted(files))
    if settings.source == "csv" and path.is_file():
        yield from (_trace(path.parent / name) for name in list_source(settings).samples["file"])


def _module_digest(module: str) -> str:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None  # listing the source will say so
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return ""
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else f"{path} is not there"


def _trace(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path} is not there"
    return f"{path} {status.st_size} {status.st_mtime_ns}"
