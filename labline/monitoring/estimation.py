"""How good answers are whose truth nobody knows yet: accuracy estimated from confidence, knowing how models go wrong.

Confidence-based performance estimation (CBPE) calibrates confidences on the reference and averages them over a window
(Kivimäki et al. 2025, "Confidence-based Estimators for Predictive Performance in Model Monitoring", JAIR). It is
unbiased while the window's answers are calibrated as the reference's were, and fails under covariate shift, where
networks stay sure of themselves: on noisy `surface` images it said 84 % where 31 % were right. So the window is first
described as a mixture of the reference and of copies of it under known shifts (`labline.monitoring.shifts`), as
Mansour, Mohri & Rostamizadeh 2009, "Domain Adaptation with Multiple Sources", take a target to be, and calibrated on
that mixture. The weights are those whose mean embedding in a reproducing kernel space is nearest to the window's
(kernel mean matching, Huang et al. 2007; random Fourier features, Rahimi & Recht 2007), found by non-negative least
squares, and shrunk towards the reference as far as chance explains the difference.

Known limits: concept drift (same input, other truth) is invisible to any estimate without labels; a shift unlike all
known ones is described badly. How wrong that can be is measured when fitting, by describing each family of shifts by
the others; the interval grows with the distance from the reference accordingly.

Shape legend: N predictions, M random features, G domains (the reference first), E bins of confidence, B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from labline.monitoring.samples import Floats, Integers, Samples, reference_samples
from labline.monitoring.shifts import FAMILY, SEVERITY
from labline.reference import Reference

COMPONENTS = 16  # principal ones of the embedding
FREQUENCIES = 360
BANDWIDTHS = (0.5, 1.0, 2.0)  # multiples of 1 / the median distance
BINS = 15
RESAMPLES = 100
MOST_RESAMPLED = 1500  # predictions of a window that a resample draws from
PRIOR = 0.01  # weight of all domains together in a bin of confidence that the mixture hardly has
SUM_WEIGHT = 30.0  # how strictly weights sum to 1
QUANTILE = 1.96  # of the normal distribution: 95 %


@dataclass(frozen=True)
class Estimate:
    """Of N predictions: the estimated `accuracy` and its 95 % interval `low` to `high`, all sources of error together.

    `drop` is how far it lies below the reference's accuracy, `drop_low` and `drop_high` its 95 % interval from
    sampling and calibration alone, as if the mixture were right. `mixture`: the shifts that describe the window, and
    their shares.
    """

    samples: int
    accuracy: float
    low: float
    high: float
    drop: float
    drop_low: float
    drop_high: float
    mixture: dict[str, float]


@dataclass(frozen=True)
class _Space:
    """Where windows are compared: standardized quantities, then random Fourier features of them."""

    centre: Floats
    components: Floats
    locations: Floats
    scales: Floats
    frequencies: Floats

    def quantities(self, samples: Samples) -> Floats:
        scalar_NQ = (_scalars(samples) - self.locations) / self.scales
        if samples.embedding is None or not self.components.size:
            return np.hstack([np.zeros((len(samples), self.components.shape[1])), scalar_NQ])
        return np.hstack([(samples.embedding - self.centre) @ self.components, scalar_NQ])

    def features(self, samples: Samples) -> Floats:
        angles_NM = self.quantities(samples) @ self.frequencies
        features_NM: Floats = np.hstack([np.cos(angles_NM), np.sin(angles_NM)]) / np.sqrt(angles_NM.shape[1])
        return features_NM


@dataclass(frozen=True)
class Estimator:
    """A fitted estimator: the G `domains`, the reference first.

    `baseline`: the reference's accuracy, and `baselines`, B, of its resamples. `means`, G x M, say where domains lie in
    `space`. `seen` and `right`, B + 1 x G x E: the shares of each domain's samples in each bin of confidence, and there
    right; the first is the sample itself, the others are resamples. `edges` part the bins.
    """

    domains: tuple[str, ...]
    baseline: float
    baselines: Floats
    space: _Space
    edges: Floats
    means: Floats
    seen: Floats
    right: Floats
    reference_samples: int
    error_per_distance: float

    def estimate(self, samples: Samples, seed: int = 0) -> Estimate:
        """Estimate the accuracy of a window of a classifier. The same window gives the same figures."""
        features_NM = self.space.features(samples)
        mean_M = features_NM.mean(axis=0)
        distance, chance = self._distances(mean_M, len(samples))
        trust = 1 - min(1.0, (chance / max(distance, 1e-12)) ** 2)
        belongs_NE = np.eye(len(self.edges) + 1)[np.searchsorted(self.edges, samples.confidence)]
        weights_G = self._shrunk(mean_M, trust)
        accuracy = self._accuracy(weights_G, belongs_NE.mean(axis=0), 0)
        drop = self.baseline - accuracy
        accuracy_B = self._resampled(features_NM, belongs_NE, trust, seed)
        drop_B = self.baselines - accuracy_B
        systematic = self.error_per_distance * np.sqrt(max(0.0, distance**2 - chance**2))
        realised = np.sqrt(accuracy * (1 - accuracy) / len(samples))  # what comes true varies about its expectation
        reach = QUANTILE * float(np.sqrt(accuracy_B.var() + systematic**2 + realised**2))
        return Estimate(
            samples=len(samples),
            accuracy=accuracy,
            low=max(0.0, accuracy - reach),
            high=min(1.0, accuracy + reach),
            drop=drop,
            drop_low=drop - QUANTILE * float(drop_B.std()),
            drop_high=drop + QUANTILE * float(drop_B.std()),
            mixture={self.domains[g]: float(weights_G[g]) for g in np.argsort(-weights_G)[:4] if weights_G[g] > 0.02},
        )

    def _distances(self, mean_M: Floats, samples: int) -> tuple[float, float]:
        """How far a window lies from the reference, and how far it would by chance."""
        spread = max(0.0, 1 - float(self.means[0] @ self.means[0]))  # every sample's features have length 1
        chance = np.sqrt(spread * (1 / samples + 1 / self.reference_samples))
        return float(np.linalg.norm(mean_M - self.means[0])), float(chance)

    def _shrunk(self, mean_M: Floats, trust: float) -> Floats:
        """The mixture that describes a window, shrunk towards the reference as far as chance explains the distance
        (James & Stein 1961, "Estimation with Quadratic Loss"): a healthy window is left to calibrated confidence."""
        weights_G = trust * mixture_weights(mean_M, self.means) if trust else np.zeros(len(self.means))
        weights_G[0] += 1 - trust
        return weights_G

    def _resampled(self, features_NM: Floats, belongs_NE: Floats, trust: float, seed: int) -> Floats:
        """Estimates, B, from resamples of the window and of the reference at once, as scattered as whole ones."""
        samples = len(features_NM)
        size = min(samples, MOST_RESAMPLED)
        even = np.full(samples, 1 / samples)
        counts_BN = np.random.default_rng(seed).multinomial(size, even, len(self.baselines)) / size
        counts_BN = even + (counts_BN - even) * np.sqrt(size / samples)
        shares_BE, means_BM = counts_BN @ belongs_NE, counts_BN @ features_NM
        drawn = enumerate(zip(means_BM, shares_BE, strict=True), start=1)
        return np.array([self._accuracy(self._shrunk(mean_M, trust), shares_E, b) for b, (mean_M, shares_E) in drawn])

    def _accuracy(self, weights_G: Floats, shares_E: Floats, b: int) -> float:
        """The calibrated confidence under a mixture, averaged over a window's bins, with the b-th resample's counts."""
        seen_E, right_E = weights_G @ self.seen[b], weights_G @ self.right[b]
        prior_E = (self.right[b].sum(axis=0) + 1e-9) / (self.seen[b].sum(axis=0) + 2e-9)
        return float(shares_E @ ((right_E + PRIOR * prior_E / BINS) / (seen_E + PRIOR / BINS)))


def fit_estimator(reference: Reference, shifted: Reference | None = None, seed: int = 0) -> Estimator:
    """Fit on a classifier's reference and, where there is one, its shifted copies (`shifted_reference`).

    Without these it is plain CBPE with histogram binning (Zadrozny & Elkan 2001).
    """
    domains, parts, samples_of = _domains(reference, shifted)
    generator = np.random.default_rng(seed)
    space = _space(parts, generator)
    means = np.stack([space.features(part).mean(axis=0) for part in parts])
    confidence_N = np.concatenate([part.confidence for part in parts])
    edges = np.unique(np.quantile(confidence_N, np.linspace(0, 1, BINS + 1)[1:-1]))
    seen, right = _counts(parts, samples_of, edges, generator)
    baselines = right[:, 0].sum(axis=1) / seen[:, 0].sum(axis=1)
    fitted = Estimator(
        domains, float(baselines[0]), baselines[1:], space, edges, means, seen, right, len(parts[0]), 0.0
    )
    return replace(fitted, error_per_distance=_error_per_distance(fitted, parts))


def mixture_weights(mean_M: Floats, means_GM: Floats) -> Floats:
    """The shares, G, of the domains whose mixture is nearest to a window's mean features: above 0, summing to 1."""
    domains = len(means_GM)
    if domains == 1:
        return np.ones(1)
    gram_GG = means_GM @ means_GM.T + SUM_WEIGHT**2 + 1e-6 * np.eye(domains)
    root_GG = np.linalg.cholesky(gram_GG)
    weights_G, _ = nnls(root_GG.T, np.linalg.solve(root_GG, means_GM @ mean_M + SUM_WEIGHT**2))
    normalized_G: Floats = weights_G / weights_G.sum()
    return normalized_G


def _domains(reference: Reference, shifted: Reference | None) -> tuple[tuple[str, ...], list[Samples], list[Integers]]:
    """Names, samples and, for resampling, which of the reference's samples each one shows."""
    whole = reference_samples(reference)
    names, parts, shown = ["as tested"], [whole], [np.arange(len(whole))]
    if shifted is not None:
        rows = shifted.rows.reset_index(drop=True)
        copies = reference_samples(Reference(rows, shifted.outputs, shifted.embedding, ("mean", "std")))
        names_N = np.array([f"{row[FAMILY]} {row[SEVERITY]:g}" for row in rows[[FAMILY, SEVERITY]].to_dict("records")])
        for name in np.unique(names_N):
            positions = np.flatnonzero(names_N == name)
            names.append(str(name))
            parts.append(copies.taken(positions))
            shown.append(rows["sample_id"].to_numpy()[positions].astype(np.int64))
    return tuple(names), parts, shown


def _scalars(samples: Samples) -> Floats:
    """N x 3: logit of the confidence, brightness and (log) contrast, 0 where there are none."""
    confidence_N = samples.confidence.clip(1e-4, 1 - 1e-4)
    none_N = np.zeros(len(samples))
    mean_N, std_N = (np.nan_to_num(samples.features.get(name, none_N)) for name in ("mean", "std"))
    return np.stack([np.log(confidence_N / (1 - confidence_N)), mean_N, np.log1p(std_N)], axis=1)


def _space(parts: list[Samples], generator: np.random.Generator) -> _Space:
    reference_NQ = _scalars(parts[0])
    locations, scales = reference_NQ.mean(axis=0), reference_NQ.std(axis=0)
    embeddings = [part.embedding for part in parts if part.embedding is not None]
    if len(embeddings) == len(parts):
        whole_ND = np.concatenate(embeddings).astype(np.float64)
        centre_D = whole_ND.mean(axis=0)
        variances, directions = np.linalg.eigh(np.cov(whole_ND.T))
        largest = np.argsort(variances)[::-1][: min(COMPONENTS, int((variances > 1e-9 * variances.max()).sum()))]
        components = directions[:, largest] / np.sqrt(variances[largest])
    else:
        centre_D, components = np.zeros(1), np.empty((1, 0))
    space = _Space(centre_D, components, locations, np.where(scales > 0, scales, 1.0), np.empty((0, 0)))
    some_NQ = space.quantities(parts[0])
    some_NQ = some_NQ[generator.permutation(len(some_NQ))[:300]]
    median = float(np.median(((some_NQ[:, None] - some_NQ) ** 2).sum(axis=-1))) or 1.0
    widths = np.repeat(np.sqrt(2 / median) * np.array(BANDWIDTHS), FREQUENCIES // len(BANDWIDTHS))
    frequencies = generator.standard_normal((some_NQ.shape[1], len(widths))) * widths
    return _Space(space.centre, space.components, space.locations, space.scales, frequencies)


def _counts(
    parts: list[Samples], shown: list[Integers], edges: Floats, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """How many of each domain's samples fall into each bin, and are right, as shares of it: both B + 1 x G x E."""
    samples = int(max(positions.max() for positions in shown)) + 1
    weights_BN = np.vstack([np.ones(samples), generator.multinomial(samples, np.full(samples, 1 / samples), RESAMPLES)])
    bins = len(edges) + 1
    seen_G, right_G = [], []
    for part, positions in zip(parts, shown, strict=True):
        belongs_NE = np.eye(bins)[np.searchsorted(edges, part.confidence)]
        drawn_BN = weights_BN[:, positions]
        total_B1 = drawn_BN.sum(axis=1, keepdims=True)
        seen_G.append(drawn_BN @ belongs_NE / total_B1)
        right_G.append(drawn_BN @ (belongs_NE * part.correct[:, None]) / total_B1)
    return np.stack(seen_G, axis=1), np.stack(right_G, axis=1)


def _error_per_distance(fitted: Estimator, parts: list[Samples]) -> float:
    """The standard deviation of the error of estimates for each family of shifts described by the others, per distance
    from the reference: how much worse than sampling an estimate gets with every step away from what is known."""
    families = np.array([name.split(" ")[0] for name in fitted.domains])
    errors, distances = [], []
    for g in range(1, len(parts)):
        others = np.flatnonzero(families != families[g])
        weights_G = np.zeros(len(parts))
        weights_G[others] = mixture_weights(fitted.means[g], fitted.means[others])
        bins_N = np.searchsorted(fitted.edges, parts[g].confidence)
        errors.append(fitted._accuracy(weights_G, _shares(bins_N, len(fitted.edges) + 1), 0) - parts[g].correct.mean())
        distances.append(np.linalg.norm(fitted.means[g] - fitted.means[0]))
    return float(np.sqrt(np.mean(np.square(errors)) / np.mean(np.square(distances)))) if errors else 0.0


def _shares(bins_N: Integers, bins: int) -> Floats:
    shares_E: Floats = np.bincount(bins_N, minlength=bins) / len(bins_N)
    return shares_E
