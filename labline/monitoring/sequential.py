"""Evidence that something got worse, which may be looked at as often as one likes.

Each stream is a score between 0 and 1 of every prediction, and what its mean may be at most while all is well. A bet
against that pays 1 + λ (score - bound) a prediction: a fair or losing game while the mean, given all that came
before, keeps within the bound (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting";
for the risk of a deployed model Podkopaev & Ramdas 2021, "Tracking the risk of a deployed model and detecting harmful
distribution shifts"). Since nobody knows when a change begins, one such game starts at every prediction, with a
stake of 1 / horizon: the e-detector of Shirayev and Roberts in Shin, Ramdas & Rinaldo 2022, "E-detectors". The
expected sum of all winnings is at most 1 within any `horizon` predictions in a row, so that by Ville's inequality it
reaches 1 / α within them with chance α at most, however often it is looked at and whoever stops when.

The stakes λ are fixed and mixed evenly, so winnings are products over predictions in any order: a label that comes
late multiplies in where it belongs, a window looked at twice gives the same number, and predictions too old to be in
the window take only winnings away. There is no state to keep, to lose or to count twice.

Shape legend: N predictions, S streams, L stakes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

Floats = npt.NDArray[np.float64]

STAKES = np.array([0.05, 0.15, 0.4, 0.8])  # of what may be lost at most in one prediction


@dataclass(frozen=True)
class Evidence:
    """`log_value`: log of the winnings of all games, mixed over streams. `stream`, the one that won most, and `start`,
    the position of the prediction from which on it did: the likeliest begin of the change."""

    log_value: float
    stream: int
    start: int


def detect(scores_NS: Floats, bounds_S: Floats, horizon: int) -> Evidence:
    """The evidence against every stream's mean being within its bound, at the last of N predictions.

    Scores are 0 to 1, NaN where a prediction has none (such as no label yet); bounds are above 0 and below 1.
    No prediction, or no stream, is no evidence: -inf.
    """
    if scores_NS.size == 0:
        return Evidence(-np.inf, 0, 0)
    logs_NSL = log_payoffs(scores_NS, bounds_S)
    none_SL = np.full(logs_NSL.shape[1:], -np.inf)
    value_SL = advance(none_SL, logs_NSL, horizon)
    stream, stake = np.unravel_index(int(value_SL.argmax()), value_SL.shape)
    won_N = logs_NSL[::-1, stream, stake].cumsum()[::-1]
    return Evidence(mixed(value_SL), int(stream), int(won_N.argmax()))


def log_payoffs(scores_NS: Floats, bounds_S: Floats) -> Floats:
    """What a bet on each prediction pays, its logarithm, N x S x L; 0 where there is no score."""
    stakes_SL = STAKES / bounds_S[:, None]
    logs_NSL: Floats = np.log1p(stakes_SL * (scores_NS - bounds_S)[:, :, None])
    return np.nan_to_num(logs_NSL, nan=0.0)


def advance(log_value_SL: Floats, logs_NSL: Floats, horizon: int) -> Floats:
    """The log winnings, (…, S, L), after N more predictions, whose pay-offs are (N, …, S, L), of all games so far."""
    remaining = logs_NSL[::-1].cumsum(axis=0)  # from each prediction on to the last
    begun = logsumexp(remaining, axis=0) - np.log(horizon)
    after: Floats = np.logaddexp(log_value_SL + remaining[-1], begun)
    return after


def mixed(log_value_SL: Floats) -> float:
    """The mean over streams and stakes, as a logarithm: itself a fair game, so no stream has to be corrected for."""
    return float(logsumexp(log_value_SL) - np.log(log_value_SL.size))
