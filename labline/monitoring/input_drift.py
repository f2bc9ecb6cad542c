"""Which inputs look different: every feature of a window against the reference, by size and by significance.

Shape legend: N reference samples, M samples of the window, F features.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

Floats = npt.NDArray[np.float64]

BINS = 10
SMOOTHING = 0.5  # samples added to each bin: an empty one is no infinite drift
TYPES = {
    "feature": object,
    "reference": np.float64,
    "window": np.float64,
    "missing": np.float64,
    "outside": np.float64,
    "psi": np.float64,
    "ks": np.float64,
    "wasserstein": np.float64,
    "p": np.float64,
}


def input_drift(reference: Mapping[str, Floats], window: Mapping[str, Floats]) -> pd.DataFrame:
    """One row for each feature that has values in both, the most drifted first.

    feature; reference and window: the means; missing: the share of the window without a value; outside: the share
    beyond the smallest and largest of the reference; psi: population stability index (Siddiqi 2006, "Credit Risk
    Scorecards"; from 0.1 on worth a look, from 0.25 on a large shift) over deciles of the reference and two bins for
    what is outside; ks: the Kolmogorov–Smirnov distance, 0 to 1; wasserstein: the earth mover's distance in standard
    deviations of the reference; p: Holm's (1979) adjusted p-value of the Kolmogorov–Smirnov test over all features, so
    that the chance of any value below α is α at most while nothing drifts. Asymptotic: too large where values are tied.
    """
    found = [_compared(name, reference[name], window[name]) for name in reference if name in window]
    table = pd.DataFrame([row for row in found if row is not None], columns=list(TYPES)).astype(TYPES)
    table["p"] = holm(table["p"].to_numpy())
    return table.sort_values(["psi", "feature"], ascending=[False, True], ignore_index=True)


def population_stability_index(sorted_reference: Floats, sorted_window: Floats) -> float:
    """The symmetric divergence of two samples over the reference's deciles and what lies outside them."""
    edges = np.unique(np.quantile(sorted_reference, np.linspace(0, 1, BINS + 1)))
    shares = []
    for sorted_values in (sorted_reference, sorted_window):
        below = np.searchsorted(sorted_values, edges[1:-1], side="left")
        ends = [
            np.searchsorted(sorted_values, edges[0], side="left"),
            np.searchsorted(sorted_values, edges[-1], "right"),
        ]
        counts = np.diff(np.concatenate([[0], ends[:1], below, ends[1:], [len(sorted_values)]])).astype(np.float64)
        shares.append((counts + SMOOTHING) / (counts + SMOOTHING).sum())
    expected, seen = shares
    return float(((seen - expected) * np.log(seen / expected)).sum())


def distances(sorted_reference: Floats, sorted_window: Floats) -> tuple[float, float]:
    """The Kolmogorov–Smirnov and the Wasserstein distance of two samples, from one pass over both."""
    everything = np.concatenate([sorted_reference, sorted_window])
    everything.sort(kind="stable")  # two runs in order: a merge
    gap = np.abs(
        np.searchsorted(sorted_reference, everything, side="right") / len(sorted_reference)
        - np.searchsorted(sorted_window, everything, side="right") / len(sorted_window)
    )
    return float(gap.max()), float(gap[:-1] @ np.diff(everything))


def holm(p_F: Floats) -> Floats:
    """Holm's step-down adjusted p-values."""
    order = np.argsort(p_F, kind="stable")
    adjusted = np.maximum.accumulate(p_F[order] * np.arange(len(p_F), 0, -1)).clip(max=1.0)
    found_F = np.empty_like(adjusted)
    found_F[order] = adjusted
    return found_F


def _compared(name: str, reference_N: Floats, window_M: Floats) -> tuple[object, ...] | None:
    known_N, seen_M = np.sort(reference_N[~np.isnan(reference_N)]), np.sort(window_M[~np.isnan(window_M)])
    if not len(known_N) or not len(seen_M):
        return None
    ks, wasserstein = distances(known_N, seen_M)
    outside = ((seen_M < known_N[0]) | (seen_M > known_N[-1])).mean()
    effective = len(known_N) * len(seen_M) / (len(known_N) + len(seen_M))
    return (
        name,
        known_N.mean(),
        seen_M.mean(),
        1 - len(seen_M) / len(window_M),
        outside,
        population_stability_index(known_N, seen_M),
        ks,
        wasserstein / (known_N.std() or 1.0),
        float(stats.kstwobign.sf(np.sqrt(effective) * ks)),
    )
