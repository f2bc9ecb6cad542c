"""A window of unknown truth taken as a mixture of known shifts whose classes come in other shares.

Mean embeddings in a reproducing kernel space tell mixtures apart: the weights sought are those whose mean is nearest to
the window's, for shifts (kernel mean matching, Huang et al. 2007) as for class shares (Iyer, Nath & Sarawagi 2014,
"Maximum Mean Discrepancy for Class Ratio Estimation"; Zhang et al. 2013, "Domain Adaptation under Target and
Conditional Shift"). Both at once, so that neither is taken for the other: a class that comes more often moves every
mean, and is no change of what pictures look like. Class ratios are drawn towards 1, as far as chance would move them.

Shape legend: M random features, G domains (the reference first), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

Floats = npt.NDArray[np.float64]

SUM_WEIGHT = 30.0  # how strictly weights sum to 1
RIDGE = 1e-6  # keeps domains that are alike apart
ROUNDS = 8  # of shares and ratios in turn


@dataclass(frozen=True)
class Mixture:
    """`shares` of the domains, G, and `ratios` of the classes, K: how many times as frequent as in the reference."""

    shares: Floats
    ratios: Floats


@dataclass(frozen=True)
class Fit:
    """The mixture `found`, and how far its shifts and its classes are more than chance, 0 to 1 each."""

    found: Mixture
    of_shifts: float
    of_classes: float


@dataclass(frozen=True)
class Domains:
    """G domains of K classes: `means`, G x K x M, of features, each class's times its share of the domain, `priors`,
    G x K, these shares.
    """

    means: Floats
    priors: Floats

    def mean(self, mixture: Mixture) -> Floats:
        """The mean features, M, of a mixture."""
        mean_M: Floats = np.tensordot(self.weights(mixture), self.means, axes=2)
        return mean_M

    def distance(self, mean_M: Floats, mixture: Mixture) -> float:
        """How far a window's mean features lie from a mixture's."""
        return float(np.linalg.norm(mean_M - self.mean(mixture)))

    def weights(self, mixture: Mixture) -> Floats:
        """How much each class of each domain counts, G x K, times its share of the domain."""
        scale_G = mixture.shares / np.maximum(self.priors @ mixture.ratios, 1e-9)
        weights_GK: Floats = scale_G[:, None] * mixture.ratios
        return weights_GK

    def unchanged(self) -> Mixture:
        """The reference as it is."""
        domains, classes = self.priors.shape
        return Mixture(np.eye(domains)[0], np.ones(classes))

    def fit(self, mean_M: Floats, chance: float) -> Fit:
        """The mixture nearest to a window's mean features; `chance` is how far those of the reference itself would lie.

        Shares and ratios are found in turn, beginning with either: the nearer one counts. Shifts are trusted as far as
        other classes alone leave more than chance, other classes as far as shifts alone do.
        """
        reference = self.unchanged()
        if len(self.priors) == 1:
            return Fit(reference, 1.0, 0.0)
        classes = Mixture(reference.shares, self.ratios(mean_M, reference, chance))
        shifts = Mixture(self.shares(mean_M, reference.ratios), reference.ratios)
        both = min(
            (self._alternated(mean_M, begun, chance) for begun in (reference, classes)),
            key=lambda found: self.distance(mean_M, found),
        )
        heavier = np.sqrt(max(1.0, float(self.priors[0] @ classes.ratios**2)))  # fewer samples count (Kish 1965)
        of_shifts = beyond_chance(self.distance(mean_M, classes), chance * heavier)
        of_classes = beyond_chance(self.distance(mean_M, reference), chance)
        shifts_suffice = of_shifts * (1 - beyond_chance(self.distance(mean_M, shifts), chance))
        return Fit(both, of_shifts, of_classes * (1 - shifts_suffice))

    def shrunk(self, mean_M: Floats, fit: Fit, chance: float) -> Mixture:
        """The mixture of a window, or of a resample of the window that was fitted, drawn towards the reference as far
        as chance explains it (James & Stein 1961, "Estimation with Quadratic Loss")."""
        reference = self.unchanged()
        ratios_K = reference.ratios
        if fit.of_classes:
            ratios_K = 1 + fit.of_classes * (self.ratios(mean_M, fit.found, chance) - 1)
        shares_G = reference.shares
        if fit.of_shifts and len(shares_G) > 1:
            shares_G = shares_G + fit.of_shifts * (self.shares(mean_M, ratios_K) - shares_G)
        return Mixture(shares_G, ratios_K)

    def without(self, kept_G: npt.NDArray[np.bool_], mean_M: Floats) -> Mixture:
        """The nearest mixture of these domains alone, their classes as they are."""
        chosen = np.flatnonzero(kept_G)
        some = Domains(self.means[chosen], self.priors[chosen])
        ratios_K = np.ones(self.priors.shape[1])
        shares_G = np.zeros(len(self.priors))
        shares_G[chosen] = some.shares(mean_M, ratios_K)
        return Mixture(shares_G, ratios_K)

    def shares(self, mean_M: Floats, ratios_K: Floats) -> Floats:
        """Of the domains, G, given the ratios of the classes: none below 0, their sum 1."""
        means_GM = np.einsum("gkm,k->gm", self.means, ratios_K) / np.maximum(self.priors @ ratios_K, 1e-9)[:, None]
        gram_GG = means_GM @ means_GM.T + SUM_WEIGHT**2 + RIDGE * np.eye(len(means_GM))
        shares_G = _nonnegative(gram_GG, means_GM @ mean_M + SUM_WEIGHT**2)
        normalized_G: Floats = shares_G / shares_G.sum()
        return normalized_G

    def ratios(self, mean_M: Floats, mixture: Mixture, chance: float) -> Floats:
        """Of the classes, K, given the shares of the domains: none below 0, the mean over the reference 1."""
        scale_G = mixture.shares / np.maximum(self.priors @ mixture.ratios, 1e-9)
        means_KM = np.tensordot(scale_G, self.means, axes=1)
        prior_K = np.maximum(self.priors[0], 1e-9)
        calm_K = (chance**2 + RIDGE) * prior_K
        ratios_K = _nonnegative(
            means_KM @ means_KM.T + SUM_WEIGHT**2 * np.outer(prior_K, prior_K) + np.diag(calm_K),
            means_KM @ mean_M + SUM_WEIGHT**2 * prior_K + calm_K,
        )
        normalized_K: Floats = ratios_K / (prior_K @ ratios_K)
        return normalized_K

    def _alternated(self, mean_M: Floats, mixture: Mixture, chance: float) -> Mixture:
        for _ in range(ROUNDS):
            mixture = Mixture(self.shares(mean_M, mixture.ratios), mixture.ratios)
            mixture = Mixture(mixture.shares, self.ratios(mean_M, mixture, chance))
        return Mixture(self.shares(mean_M, mixture.ratios), mixture.ratios)


def beyond_chance(distance: float, chance: float) -> float:
    """The share of a distance, 0 to 1, that chance does not explain."""
    return 1 - min(1.0, (chance / max(distance, 1e-12)) ** 2)


def _nonnegative(gram: Floats, projections: Floats) -> Floats:
    """x >= 0 of the least x'Gx - 2x'p, for a positive definite G."""
    root = np.linalg.cholesky(gram)
    solved: Floats = nnls(root.T, np.linalg.solve(root, projections))[0]
    return solved
