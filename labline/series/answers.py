"""What a forecaster's outputs say, without PyTorch: the service and batch inference start quickly and never train.

Shape legend: N windows, K classes, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def class_probabilities(logits_NK: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Softmax of the logits of the head "classes", N x K of the same dtype; N may be 0."""
    shifted_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return np.asarray(shifted_NK / shifted_NK.sum(axis=1, keepdims=True))


def quantile_mean(levels: Sequence[float], quantiles_NQ: npt.NDArray[Any]) -> Floats:
    """The mean of the distribution that has each quantile with the probability nearest to its level, N."""
    return np.asarray(quantiles_NQ @ level_shares(levels))


def level_shares(levels: Sequence[float]) -> Floats:
    """The probability nearest to each of the ascending levels, Q: 1 in all."""
    level_Q = np.asarray(levels, np.float64)
    edges = np.concatenate([[0.0], (level_Q[1:] + level_Q[:-1]) / 2, [1.0]])
    return np.diff(edges)
