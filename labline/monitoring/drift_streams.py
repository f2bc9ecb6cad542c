"""Scores of each prediction whose means move when inputs or answers drift: what the sequential test bets on.

A feature becomes its rank within the reference (0 to 1, mean one half), which is free of units and of outliers, and
how extreme that rank is, which moves where the spread changes. The embedding becomes its squared Mahalanobis distance
from the reference (Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples"), ranked
alike, the covariance shrunk after Ledoit & Wolf 2004. Means may wander by a tolerance: a reference is a finite sample
itself, and production is never quite like it (Podkopaev & Ramdas 2021 call it the tolerated increase).

Shape legend: N predictions, S streams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labline.monitoring.samples import OF_THE_FILE, Samples

Floats = npt.NDArray[np.float64]

EMBEDDING = "embedding distance"


@dataclass(frozen=True)
class DriftStreams:
    """How predictions are scored: `names` of S streams and the `bounds` of their means.

    `sorted_values`: the reference's values of each ranked quantity, ascending; `distance`: the embedding's, or None.
    """

    names: tuple[str, ...]
    bounds: Floats
    sorted_values: dict[str, Floats]
    distance: EmbeddingDistance | None
    classes: int

    def scores(self, samples: Samples) -> Floats:
        """N x S, each 0 to 1, NaN where a prediction has no such feature."""
        values = _ranked_quantities(samples, self.distance)
        columns = []
        for name, reference in self.sorted_values.items():
            rank_N = ranks(values[name], reference) if name in values else np.full(len(samples), np.nan)
            extreme_N = np.abs(2 * rank_N - 1)
            columns += [rank_N, 1 - rank_N, extreme_N, 1 - extreme_N]
        columns += [(samples.predicted == k).astype(np.float64) for k in range(self.classes)]
        return np.stack(columns, axis=1) if columns else np.empty((len(samples), 0))


@dataclass(frozen=True)
class EmbeddingDistance:
    """The reference's `location` D and `precision` D x D, the inverse of its shrunk covariance."""

    location: Floats
    precision: Floats

    def of(self, embedding_ND: npt.NDArray[np.floating]) -> Floats:
        """Squared Mahalanobis distances, N."""
        away_ND = embedding_ND.astype(np.float64) - self.location
        distances_N: Floats = np.einsum("nd,nd->n", away_ND @ self.precision, away_ND)
        return distances_N


def drift_streams(reference: Samples, tolerance: float) -> DriftStreams:
    """Streams of everything that the reference has: ranked features, embedding, confidence and class shares.

    Facts about files (width, height, bytes) are left out: a client that sends another format is no drift of what the
    model sees.
    """
    # Distances from a covariance fitted on the same rows are too short: one half fits, the other is measured.
    halves = [reference.taken(np.arange(first, len(reference), 2)) for first in (0, 1)]
    distance = None if halves[0].embedding is None else _distance(halves[0].embedding)
    values = _ranked_quantities(reference, None)
    if distance is not None and halves[1].embedding is not None:
        values[EMBEDDING] = distance.of(halves[1].embedding)
    kept = {name: np.sort(of_N[~np.isnan(of_N)]) for name, of_N in values.items()}
    kept = {name: of_N for name, of_N in kept.items() if len(of_N)}
    sides = ("higher", "lower", "more extreme", "less extreme")
    names = [f"{name} {side}" for name in kept for side in sides]
    means = [mean for of_N in kept.values() for mean in _mean_scores(of_N)]
    classes = reference.outputs.shape[1] if reference.classifies else 0
    shares = np.bincount(reference.predicted, minlength=classes) / len(reference) if classes else np.empty(0)
    names += [f"answers {_class_name(reference, k)}" for k in range(classes)]
    bounds = np.clip(np.concatenate([means, shares]) + tolerance, 0, 0.98)
    return DriftStreams(tuple(names), bounds, kept, distance, classes)


def ranks(values_N: Floats, sorted_reference: Floats) -> Floats:
    """The share of the reference below each value, ties counted half; NaN stays NaN."""
    below_N = np.searchsorted(sorted_reference, values_N, side="left")
    up_to_N = np.searchsorted(sorted_reference, values_N, side="right")
    return np.where(np.isnan(values_N), np.nan, (below_N + up_to_N) / (2 * len(sorted_reference)))


def _ranked_quantities(samples: Samples, distance: EmbeddingDistance | None) -> dict[str, Floats]:
    quantities = {name: of_N for name, of_N in samples.features.items() if name not in OF_THE_FILE}
    if samples.classifies:
        quantities["confidence"] = samples.confidence
    else:
        quantities["forecast"] = samples.outputs[:, 0]
    if distance is not None and samples.embedding is not None:
        quantities[EMBEDDING] = distance.of(samples.embedding)
    return quantities


def _mean_scores(sorted_reference: Floats) -> list[float]:
    rank_N = ranks(sorted_reference, sorted_reference)
    extreme = float(np.abs(2 * rank_N - 1).mean())
    return [0.5, 0.5, extreme, 1 - extreme]


def _distance(embedding_ND: npt.NDArray[np.float32]) -> EmbeddingDistance:
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(embedding_ND.astype(np.float64))
    return EmbeddingDistance(fitted.location_, fitted.precision_)


def _class_name(samples: Samples, position: int) -> str:
    """The class at a position of the outputs; its number where it is never answered."""
    answered = samples.answer[samples.predicted == position]
    return str(answered[0]) if len(answered) else f"class {position}"
