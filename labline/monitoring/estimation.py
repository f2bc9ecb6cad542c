"""How good answers are whose truth nobody knows yet: accuracy estimated from confidence, knowing how models go wrong.

Confidence-based performance estimation (CBPE) calibrates confidences on the reference and averages them over a window
(Kivimäki et al. 2025, "Confidence-based Estimators for Predictive Performance in Model Monitoring", JAIR). It is
unbiased while the window's answers are calibrated as the reference's were, and fails under covariate shift, where
networks stay sure of themselves: on noisy `surface` images it said 84 % where 31 % were right. So the window is first
described as a mixture of the reference and of copies of it under known shifts (`labline.monitoring.shifts`), as
Mansour, Mohri & Rostamizadeh 2009, "Domain Adaptation with Multiple Sources", take a target to be, and calibrated on
that mixture, the shares of its classes being the window's (`labline.monitoring.mixture`): a change of class shares
alone (label shift, Lipton, Wang & Smola 2018, "Detecting and Correcting for Label Shift with Black Box Predictors")
is the reference with other classes, and no other shift. Windows are compared by the means of random Fourier features
(Rahimi & Recht 2007), and what is found is shrunk towards the reference as far as chance explains the difference: to
a window that is the reference by that measure, or the reference with other classes, no confidence is applied, and its
accuracy is that of the reference with these classes.

Known limits: concept drift (same input, other truth) is invisible to any estimate without labels; a shift unlike all
known ones is described badly. How wrong that can be is measured when fitting, by describing each family of shifts by
the others; the interval grows with the distance from the reference accordingly.

Shape legend: N predictions, M random features, G domains (the reference first), K classes, E bins of confidence,
B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from labline.monitoring.mixture import Domains, Fit, Mixture
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
CHANGED = 0.1  # of a class's share that is worth a word
QUANTILE = 1.96  # of the normal distribution: 95 %


@dataclass(frozen=True)
class Estimate:
    """Of N predictions: the estimated `accuracy` and its 95 % interval `low` to `high`, all sources of error together.

    `drop` is how far it lies below the reference's accuracy, `drop_low` and `drop_high` its 95 % interval from
    sampling and calibration alone, as if the mixture were right. `mixture`: the shifts that describe the window, and
    their shares; `classes`: those found in another share than in the reference, and that share.
    """

    samples: int
    accuracy: float
    low: float
    high: float
    drop: float
    drop_low: float
    drop_high: float
    mixture: dict[str, float]
    classes: dict[str, float] = field(default_factory=dict)


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
    """A fitted estimator: the G `domains`, the reference first, and the K `classes`.

    `baseline`: the reference's accuracy, and `baselines`, B, of its resamples. `known` says where domains lie in
    `space`. `seen` and `right`, B + 1 x G x K x E: the shares of each domain's samples of each class in each bin of
    confidence, and there right; the first is the sample itself, the others are resamples. `edges` part the bins.
    """

    domains: tuple[str, ...]
    classes: tuple[str, ...]
    baseline: float
    baselines: Floats
    space: _Space
    edges: Floats
    known: Domains
    seen: Floats
    right: Floats
    reference_samples: int
    error_per_distance: float

    def estimate(self, samples: Samples, seed: int = 0) -> Estimate:
        """Estimate the accuracy of a window of a classifier. The same window gives the same figures."""
        features_NM = self.space.features(samples)
        mean_M = features_NM.mean(axis=0)
        chance = self._chance(len(samples))
        fit = self.known.fit(mean_M, chance)
        mixture = self.known.shrunk(mean_M, fit, chance)
        belongs_NE = np.eye(len(self.edges) + 1)[np.searchsorted(self.edges, samples.confidence)]
        accuracy = self._accuracy(mixture, fit.of_shifts, belongs_NE.mean(axis=0), 0)
        drop = self.baseline - accuracy
        accuracy_B = self._resampled(features_NM, belongs_NE, fit, chance, seed)
        drop_B = self.baselines - accuracy_B
        remixed = Mixture(self.known.unchanged().shares, mixture.ratios)
        distance = self.known.distance(mean_M, remixed)
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
            mixture=self._largest(mixture),
            classes=self._changed(mixture),
        )

    def _largest(self, mixture: Mixture) -> dict[str, float]:
        largest = [int(g) for g in np.argsort(-mixture.shares)[:4] if mixture.shares[g] > 0.02]
        return {self.domains[g]: float(mixture.shares[g]) for g in largest}

    def _changed(self, mixture: Mixture) -> dict[str, float]:
        share_K = mixture.ratios * self.known.priors[0]
        changed = np.flatnonzero(np.abs(share_K - self.known.priors[0]) >= CHANGED)
        return {self.classes[k]: float(share_K[k]) for k in changed}

    def _chance(self, samples: int) -> float:
        """How far a window would lie from the reference by chance."""
        mean_M = self.known.means[0].sum(axis=0)
        spread = max(0.0, 1 - float(mean_M @ mean_M))  # every sample's features have length 1
        return float(np.sqrt(spread * (1 / samples + 1 / self.reference_samples)))

    def _resampled(self, features_NM: Floats, belongs_NE: Floats, fit: Fit, chance: float, seed: int) -> Floats:
        """Estimates, B, from resamples of the window and of the reference at once, as scattered as whole ones."""
        samples = len(features_NM)
        size = min(samples, MOST_RESAMPLED)
        even = np.full(samples, 1 / samples)
        counts_BN = np.random.default_rng(seed).multinomial(size, even, len(self.baselines)) / size
        counts_BN = even + (counts_BN - even) * np.sqrt(size / samples)
        shares_BE, means_BM = counts_BN @ belongs_NE, counts_BN @ features_NM
        drawn = enumerate(zip(means_BM, shares_BE, strict=True), start=1)
        mixtures = ((b, self.known.shrunk(mean_M, fit, chance), shares_E) for b, (mean_M, shares_E) in drawn)
        return np.array([self._accuracy(mixture, fit.of_shifts, shares_E, b) for b, mixture, shares_E in mixtures])

    def _accuracy(self, mixture: Mixture, confidence: float, shares_E: Floats, b: int) -> float:
        """The accuracy of a mixture, with the b-th resample's counts, and as far as `confidence` says, 0 to 1, its
        calibrated confidence averaged over a window's bins instead."""
        weights_GK = self.known.weights(mixture)
        seen_E, right_E = (np.tensordot(weights_GK, counts[b], axes=2) for counts in (self.seen, self.right))
        prior_E = (self.right[b].sum(axis=(0, 1)) + 1e-9) / (self.seen[b].sum(axis=(0, 1)) + 2e-9)
        calibrated_E = (right_E + PRIOR * prior_E / BINS) / (seen_E + PRIOR / BINS)
        own = float(right_E.sum() / seen_E.sum())
        return own + confidence * (float(shares_E @ calibrated_E) - own)


def fit_estimator(reference: Reference, shifted: Reference | None = None, seed: int = 0) -> Estimator:
    """Fit on a classifier's reference and, where there is one, its shifted copies (`shifted_reference`).

    Without these it is plain CBPE with histogram binning (Zadrozny & Elkan 2001).
    """
    domains, parts, samples_of = _domains(reference, shifted)
    generator = np.random.default_rng(seed)
    space = _space(parts, generator)
    classes, positions = _classes(parts)
    known = Domains(*_class_means(parts, positions, len(classes), space))
    confidence_N = np.concatenate([part.confidence for part in parts])
    edges = np.unique(np.quantile(confidence_N, np.linspace(0, 1, BINS + 1)[1:-1]))
    seen, right = _counts(parts, samples_of, positions, len(classes), edges, generator)
    baselines = right[:, 0].sum(axis=(1, 2)) / seen[:, 0].sum(axis=(1, 2))
    fitted = Estimator(
        domains, classes, float(baselines[0]), baselines[1:], space, edges, known, seen, right, len(parts[0]), 0.0
    )
    return replace(fitted, error_per_distance=_error_per_distance(fitted, parts))


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


def _classes(parts: list[Samples]) -> tuple[tuple[str, ...], list[Integers]]:
    """The true classes, and the position of each sample's among them."""
    names, positions = np.unique(np.concatenate([part.label.astype(str) for part in parts]), return_inverse=True)
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return tuple(str(name) for name in names), np.split(positions.astype(np.int64), ends)


def _class_means(parts: list[Samples], of_class: list[Integers], classes: int, space: _Space) -> tuple[Floats, Floats]:
    """Mean features of each class in each domain times its share, G x K x M, and the shares, G x K."""
    belongs = [np.eye(classes)[positions] / len(positions) for positions in of_class]
    means = [of_NK.T @ space.features(part) for of_NK, part in zip(belongs, parts, strict=True)]
    return np.stack(means), np.stack([of_NK.sum(axis=0) for of_NK in belongs])


def _counts(
    parts: list[Samples],
    shown: list[Integers],
    of_class: list[Integers],
    classes: int,
    edges: Floats,
    generator: np.random.Generator,
) -> tuple[Floats, Floats]:
    """How many of each domain's samples of each class fall into each bin, and are right, as shares of the domain's:
    both B + 1 x G x K x E."""
    samples = int(max(positions.max() for positions in shown)) + 1
    weights_BN = np.vstack([np.ones(samples), generator.multinomial(samples, np.full(samples, 1 / samples), RESAMPLES)])
    bins = len(edges) + 1
    seen_G, right_G = [], []
    for part, positions, class_N in zip(parts, shown, of_class, strict=True):
        cell_N = class_N * bins + np.searchsorted(edges, part.confidence)
        belongs_NC = np.eye(classes * bins)[cell_N]
        drawn_BN = weights_BN[:, positions]
        total_B1 = drawn_BN.sum(axis=1, keepdims=True)
        seen_G.append((drawn_BN @ belongs_NC / total_B1).reshape(-1, classes, bins))
        right_G.append((drawn_BN @ (belongs_NC * part.correct[:, None]) / total_B1).reshape(-1, classes, bins))
    return np.stack(seen_G, axis=1), np.stack(right_G, axis=1)


def _error_per_distance(fitted: Estimator, parts: list[Samples]) -> float:
    """The standard deviation of the error of estimates for each family of shifts described by the others, per distance
    from the reference: how much worse than sampling an estimate gets with every step away from what is known."""
    families = np.array([name.split(" ")[0] for name in fitted.domains])
    reference_M = fitted.known.means[0].sum(axis=0)
    errors, distances = [], []
    for g in range(1, len(parts)):
        mean_M = fitted.known.means[g].sum(axis=0)
        mixture = fitted.known.without(families != families[g], mean_M)
        shares_E = _shares(np.searchsorted(fitted.edges, parts[g].confidence), len(fitted.edges) + 1)
        errors.append(fitted._accuracy(mixture, 1.0, shares_E, 0) - parts[g].correct.mean())
        distances.append(np.linalg.norm(mean_M - reference_M))
    return float(np.sqrt(np.mean(np.square(errors)) / np.mean(np.square(distances)))) if errors else 0.0


def _shares(bins_N: Integers, bins: int) -> Floats:
    shares_E: Floats = np.bincount(bins_N, minlength=bins) / len(bins_N)
    return shares_E
