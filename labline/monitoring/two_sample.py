"""Whether two sets of embeddings come from the same place: the maximum mean discrepancy, with permutations.

Gretton et al. 2012, "A Kernel Two-Sample Test", JMLR 13. Chosen over a classifier two-sample test (Lopez-Paz & Oquab
2017): it has nothing to train, sees differences in spread as well as in place, and gives the same figure each time.

Shape legend: N and M samples of D values, P permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

MOST = 800  # of each sample: the kernel matrix has (2 × 800)² entries, 20 MB
PERMUTATIONS = 499


@dataclass(frozen=True)
class TwoSample:
    """`discrepancy`: the squared maximum mean discrepancy (biased, 0 to 2), `expected` its mean where nothing differs,
    `p` the share of permutations that reach it, the observed one counted: 1 / 500 at least."""

    discrepancy: float
    expected: float
    p: float


def two_sample_test(reference_ND: Floats, window_MD: Floats, seed: int = 0) -> TwoSample:
    """Compare at most 800 samples of each, drawn evenly, under a Gaussian kernel as wide as their median distance.

    Values are standardized by the reference. The same samples give the same figures. Exact for samples that are
    exchangeable: not for series, whose neighbours resemble each other.
    """
    centre, scale = reference_ND.mean(axis=0), reference_ND.std(axis=0)
    drawn = [
        (_even(sample).astype(np.float32) - centre) / np.where(scale > 0, scale, 1)
        for sample in (reference_ND, window_MD)
    ]
    samples = np.concatenate(drawn)
    norms = (samples**2).sum(axis=1)
    squared = (norms[:, None] + norms - 2 * samples @ samples.T).clip(min=0)
    kernel = np.exp(-squared / (np.median(squared[np.triu_indices(len(samples), 1)]) or 1.0))
    members = np.zeros((len(samples), PERMUTATIONS + 1), dtype=np.float32)
    members[: len(drawn[0]), 0] = 1
    generator = np.random.default_rng(seed)
    members[:, 1:] = generator.permuted(np.repeat(members[:, :1], PERMUTATIONS, axis=1), axis=0)
    weights = members / len(drawn[0]) - (1 - members) / len(drawn[1])
    discrepancies = np.einsum("np,np->p", weights, kernel @ weights)
    observed, permuted = float(discrepancies[0]), discrepancies[1:]
    reached = int((permuted >= observed * (1 - 1e-6)).sum())
    return TwoSample(observed, float(permuted.mean()), (1 + reached) / (1 + PERMUTATIONS))


def _even(sample: Floats) -> Floats:
    chosen = np.unique(np.linspace(0, len(sample) - 1, min(MOST, len(sample))).round().astype(int))
    drawn: Floats = sample[chosen]
    return drawn
