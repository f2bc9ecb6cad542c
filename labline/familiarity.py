"""What a version is familiar with, the reference sample of its test split, and how far outside of it an input lies.

Shape legend: N inputs, M reference samples, D values of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from labline.packaged_model import open_model
from labline.reference import Reference, open_reference, sampled

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

MOST_SAMPLES = 1000  # of the reference: M x M distances take milliseconds
NEIGHBOUR = 5
OUTERMOST = 0.01  # share of the reference below the low and above the high end of what is usual
OF_FILES = {"width", "height", "bytes"}  # how a client sends an image says nothing of what the model sees
HALFWAY = 0.5  # so far outside, in widths of the usual range, is halfway to entirely strange


@dataclass(frozen=True)
class Familiar:
    """What a version's inputs were like: `labels` are its classes, none where it forecasts or is not known.

    `ranges`: of each feature the 1st and 99th percentile of the reference. `embedding`: M x D of unit length, None
    where there is none; `near` and `far`: median and 99th percentile of the distance from a reference sample to its
    fifth nearest neighbour.
    """

    labels: tuple[str, ...] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    embedding: Floats | None = None
    near: float = 0.0
    far: float = 0.0


@dataclass(frozen=True)
class Strangeness:
    """Of N inputs how strange each is, 0 (usual) to 1, and in which words; empty where it is usual."""

    score: Floats
    reasons: list[str]


@lru_cache(maxsize=8)
def familiar_version(folder: Path) -> Familiar:
    """What the version in a folder is familiar with; its classes alone where it carries no reference sample.

    Raises LablineError where the version or its reference cannot be read.
    """
    labels = open_model(folder).labels
    path = folder / "extra_files" / "reference.parquet"
    return familiarity(open_reference(path), labels) if path.is_file() else Familiar(labels)


def local_version(store: Path, usecase: str, version: str) -> Path | None:
    """The folder of a version that the service has brought to this machine; `store` is the storage root."""
    found = (store / "serving" / usecase / "versions").glob(f"{version}-*/MLmodel")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else None


def familiarity(reference: Reference, labels: tuple[str, ...] = ()) -> Familiar:
    """What a reference sample makes familiar."""
    reference = sampled(reference, MOST_SAMPLES)
    ranges = {}
    for name in reference.features:
        values = reference.rows[name].to_numpy(np.float64)
        values = values[np.isfinite(values)]
        if name not in OF_FILES and len(values):
            low, high = np.quantile(values, [OUTERMOST, 1 - OUTERMOST])
            ranges[name] = (float(low), float(high))
    if reference.embedding is None or len(reference.embedding) <= NEIGHBOUR:
        return Familiar(labels, ranges)
    embedding_MD = _directions(reference.embedding)
    distance_M = _distance(embedding_MD, embedding_MD, NEIGHBOUR + 1)  # the nearest of each is itself
    near, far = np.quantile(distance_M, [0.5, 1 - OUTERMOST])
    return Familiar(labels, ranges, embedding_MD, float(near), float(far))


def strangeness(rows: pd.DataFrame, familiar: Familiar) -> Strangeness:
    """How far N predictions, as `FeedbackStore.window` has them, lie outside of what their version is familiar with.

    By the feature that lies farthest outside of its usual range, or by the distance to the fifth nearest reference
    sample in the direction of the embedding (Sun et al. 2022, "Out-of-distribution detection with deep nearest
    neighbors"), whichever says more. Outside is told in widths of the usual range, e, and scored e / (e + 1/2).
    """
    outside_N = np.zeros(len(rows))
    reasons = [""] * len(rows)
    for name, (low, high) in familiar.ranges.items():
        if name not in rows:
            continue
        values_N = rows[name].to_numpy(np.float64)
        width = max(high - low, 0.01 * abs(high), 1e-9)
        beyond_N = np.nan_to_num(np.maximum(low - values_N, values_N - high) / width, nan=0.0)
        for i in np.flatnonzero(beyond_N > outside_N):
            reasons[i] = f"unlike the reference: {name} {values_N[i]:.4g}, usually {low:.4g} to {high:.4g}"
        outside_N = np.maximum(outside_N, beyond_N)
    if familiar.embedding is not None:
        beyond_N = _beyond_embedding(list(rows["embedding"]), familiar)
        for i in np.flatnonzero(beyond_N > outside_N):
            reasons[i] = "unlike the reference: the embedding lies outside of it"
        outside_N = np.maximum(outside_N, beyond_N)
    return Strangeness(outside_N / (outside_N + HALFWAY), reasons)


def unpack_embeddings(embeddings: Sequence[bytes]) -> Floats | None:
    """Embeddings as the feedback store keeps them, N x D; None where they have not all one length."""
    if not embeddings or len({len(each) for each in embeddings}) != 1 or not embeddings[0]:
        return None
    embedding_ND = np.frombuffer(b"".join(embeddings), "<f2").reshape(len(embeddings), -1)
    return np.nan_to_num(embedding_ND.astype(np.float64), posinf=65504.0, neginf=-65504.0)


def _beyond_embedding(embeddings: Sequence[bytes], familiar: Familiar) -> Floats:
    """How far N embeddings lie beyond the outermost of the reference, in widths of its usual distances."""
    assert familiar.embedding is not None
    length = 2 * familiar.embedding.shape[1]
    comparable = np.array([len(each) == length for each in embeddings], dtype=bool)
    beyond_N = np.zeros(len(embeddings))
    embedding_ND = unpack_embeddings([each for each in embeddings if len(each) == length])
    if embedding_ND is not None:
        distance_N = _distance(_directions(embedding_ND), familiar.embedding, NEIGHBOUR)
        width = max(familiar.far - familiar.near, 1e-3)
        beyond_N[comparable] = np.maximum(distance_N - familiar.far, 0) / width
    return beyond_N


def _directions(embedding_ND: npt.NDArray[np.floating]) -> Floats:
    lengths = np.linalg.norm(embedding_ND.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(embedding_ND / np.maximum(lengths, 1e-12), dtype=np.float64)


def _distance(embedding_ND: Floats, reference_MD: Floats, neighbour: int) -> Floats:
    """From each of N directions to its so many-th nearest of M."""
    squared_NM = np.maximum(2 - 2 * embedding_ND @ reference_MD.T, 0)
    nearest_N: Floats = np.sqrt(np.partition(squared_NM, neighbour - 1, axis=1)[:, neighbour - 1])
    return nearest_N
