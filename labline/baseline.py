"""The reference profile of a version: what its inputs and predictions looked like when it was judged.

Monitoring compares later windows with it, so it holds counts over fixed bins and no samples.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.evaluation import Evaluation
from labline.strict_json import nan_to_null

INPUT_STATISTICS = ("mean", "std", "width", "height", "bytes")
CONFIDENCE_EDGES = np.linspace(0, 1, 21)


def baseline(rows: pd.DataFrame, probabilities_NK: npt.NDArray[np.floating], evaluation: Evaluation) -> dict[str, Any]:
    """Profile the manifest rows of a split, the probabilities predicted for them and their evaluation.

    Returns, ready for JSON:
    `samples`; `inputs`: per statistic of the manifest a histogram with `edges` (n + 1), `counts` (n), `mean`
    and `std`; `confidences`: the same for the largest probability of each sample, over 20 equal bins of 0 to 1;
    `predictions` and `labels`: count per class; `quality`: per metric `value`, `low`, `high`; `per_class`:
    records of `Evaluation.per_class`. Undefined figures are None.

    Inputs are binned at their deciles (fewer where values repeat): bins of equal mass are the usual ones for
    the population stability index (Siddiqi 2006, "Credit Risk Scorecards"). The outermost edges are the
    smallest and largest value seen; a later value beyond them is news and should be counted as such.
    """
    predicted_N = probabilities_NK.argmax(axis=1)
    confidence_N = probabilities_NK.max(axis=1).clip(0, 1)
    classes = len(evaluation.labels)
    profile = {
        "samples": evaluation.samples,
        "inputs": {name: histogram(rows[name].to_numpy(), deciles(rows[name])) for name in INPUT_STATISTICS},
        "confidences": histogram(confidence_N, CONFIDENCE_EDGES),
        "predictions": dict(zip(evaluation.labels, np.bincount(predicted_N, minlength=classes).tolist(), strict=True)),
        "labels": dict(zip(evaluation.labels, evaluation.confusion.sum(axis=1).tolist(), strict=True)),
        "quality": {
            name: {"value": value, "low": evaluation.intervals[name][0], "high": evaluation.intervals[name][1]}
            for name, value in evaluation.metrics.items()
        },
        "per_class": evaluation.per_class.to_dict("records"),
    }
    return cast(dict[str, Any], nan_to_null(profile))


def deciles(values: pd.Series) -> npt.NDArray[np.float64]:
    """The edges of ten bins of equal mass, fewer where values repeat: smallest and largest value included."""
    edges = np.unique(np.quantile(values.to_numpy(dtype=np.float64), np.linspace(0, 1, 11)))
    return edges if len(edges) > 1 else np.repeat(edges, 2)


def histogram(values_N: npt.NDArray[np.generic], edges: npt.NDArray[np.float64]) -> dict[str, Any]:
    """`edges` (n + 1), `counts` (n), `mean` and `std` (of the population), ready for JSON."""
    exact_N = values_N.astype(np.float64)
    counts, _ = np.histogram(exact_N, bins=edges)
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "mean": float(exact_N.mean()),
        "std": float(exact_N.std()),
    }
