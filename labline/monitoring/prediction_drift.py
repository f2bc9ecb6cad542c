"""Whether a version answers otherwise than it did when it was tested: its classes, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from labline.monitoring.input_drift import distances
from labline.monitoring.samples import Samples


@dataclass(frozen=True)
class PredictionDrift:
    """`classes`: class, reference and window (shares of the answers). `p`: of the chi-squared test that they are alike.

    `confidence` and `reference_confidence`: means; `confidence_ks`: the Kolmogorov–Smirnov distance of their
    distributions, 0 to 1. Of a forecaster `classes` is empty, p NaN, and the forecast takes the confidence's place.
    """

    classes: pd.DataFrame
    p: float
    reference_confidence: float
    confidence: float
    confidence_ks: float


def prediction_drift(reference: Samples, window: Samples) -> PredictionDrift:
    """Compare the answers of a window with the reference's."""
    known, seen = (part.confidence if part.classifies else part.outputs[:, 0] for part in (reference, window))
    ks, _ = distances(np.sort(known), np.sort(seen))
    table, p = _classes(reference, window) if reference.classifies else (_shares({}), float("nan"))
    return PredictionDrift(table, p, float(known.mean()), float(seen.mean()), ks)


def _classes(reference: Samples, window: Samples) -> tuple[pd.DataFrame, float]:
    names = sorted({*reference.answer, *window.answer})
    counts = np.array([[np.count_nonzero(part.answer == name) for name in names] for part in (reference, window)])
    p = float(stats.chi2_contingency(counts).pvalue) if len(names) > 1 else 1.0
    shares = counts / counts.sum(axis=1, keepdims=True)
    return _shares({"class": names, "reference": shares[0], "window": shares[1]}), p


def _shares(columns: dict[str, object]) -> pd.DataFrame:
    types = {"class": object, "reference": np.float64, "window": np.float64}
    return pd.DataFrame(columns, columns=list(types)).astype(types)
