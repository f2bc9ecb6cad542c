"""How good a classifier is, and how sure we are of it: metrics with intervals, per class and per slice.

Shape legend: N samples, K classes, B bootstrap resamples, G groups.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse, stats
from sklearn import metrics as sklearn_metrics

from labline.errors import BadInput
from labline.strict_json import nan_to_null

if TYPE_CHECKING:
    from labline.usecase import Corruption

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]
Interval = tuple[float, float]

CALIBRATION_BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2
CONFIDENCE_LEVEL = 0.95
BLOCK_ENTRIES = 4_000_000  # samples x resamples held at once: 16 MB of float32
SLICED_STATISTICS = {"brightness": "mean", "contrast": "std", "original size": "width"}
PER_CLASS_TYPES = {"label": object, "support": np.int64} | {
    f"{name}{end}": np.float64 for name in ("precision", "recall", "f1") for end in ("", "_low", "_high")
}
SLICE_TYPES = {
    "slice": object,
    "value": object,
    "support": np.int64,
    "accuracy": np.float64,
    "low": np.float64,
    "high": np.float64,
}
ROBUSTNESS_TYPES = {
    "corruption": object,
    "severity": np.float64,
    "accuracy": np.float64,
    "low": np.float64,
    "high": np.float64,
}
MOST_SOURCES = 12  # more distinct sources than this are single files, not places


@dataclass(frozen=True)
class Evaluation:
    """What a classifier showed on one split.

    `metrics` and `intervals` share their keys: accuracy, balanced_accuracy, macro_f1, roc_auc, log_loss (nats)
    and calibration_error, all but log_loss within 0 to 1; an interval is (low, high).
    `per_class` has label, support, and precision, recall and f1 each with `_low` and `_high`.
    `slices` has slice, value, support, accuracy, low, high.
    `confusion` is int64 K x K, rows the true class, columns the predicted one, in the order of `labels`.
    `robustness` has corruption, severity, accuracy, low, high; it is empty where nothing was corrupted.

    Undefined figures are NaN: recall of a class without samples, precision of a class never predicted, f1 of
    a class with neither, roc_auc of a split with a single class. Means over classes leave the undefined out.
    """

    labels: tuple[str, ...]
    samples: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    per_class: pd.DataFrame
    slices: pd.DataFrame
    confusion: npt.NDArray[np.int64]
    robustness: pd.DataFrame = field(default_factory=lambda: _robustness_table([]))


def evaluate(
    probabilities_NK: Floats,
    targets_N: Integers,
    labels: tuple[str, ...],
    rows: pd.DataFrame,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Evaluate predicted probabilities against class indices.

    `rows` are the manifest rows of the split, in the order of the predictions. Intervals are the 95 %
    percentile bootstrap (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13) over
    `bootstrap` resamples, the same for the same seed; `bootstrap=0` leaves them NaN. Accuracy, a share, has
    Wilson's instead. Two readings to beware of: any other perfect score has the interval (1, 1) however few
    its samples, and calibration_error, a sum of absolute values, is larger on resamples, so that its interval
    may lie above its value.

    Raises BadInput where the shapes disagree or the rows are not probabilities.
    """
    probabilities_NK = checked_probabilities(probabilities_NK, targets_N, labels, rows)
    predicted_N = probabilities_NK.argmax(axis=1)
    values = resampled_metrics(probabilities_NK, targets_N, bootstrap, seed)
    metrics = classification_metrics(probabilities_NK, targets_N)
    confusion = sklearn_metrics.confusion_matrix(targets_N, predicted_N, labels=range(len(labels)))
    return Evaluation(
        labels=labels,
        samples=len(targets_N),
        metrics=metrics,
        intervals={name: _interval(values[name]) for name in metrics}
        | {"accuracy": wilson_interval(int(confusion.trace()), len(targets_N))},
        per_class=_per_class(targets_N, predicted_N, labels, values),
        slices=_slices(predicted_N == targets_N, rows),
        confusion=confusion.astype(np.int64),
    )


def classification_metrics(probabilities_NK: Floats, targets_N: Integers) -> dict[str, float]:
    """The figures of `Evaluation.metrics`.

    roc_auc takes the last class as the positive one where there are two, and is the mean of one-vs-rest over
    the classes present where there are more.
    """
    classes = probabilities_NK.shape[1]
    predicted_N = probabilities_NK.argmax(axis=1)
    present = np.unique(targets_N)
    ranked = present if classes > 2 else [classes - 1]
    areas = [sklearn_metrics.roc_auc_score(targets_N == k, probabilities_NK[:, k]) for k in ranked if len(present) > 1]
    return {
        "accuracy": float(sklearn_metrics.accuracy_score(targets_N, predicted_N)),
        "balanced_accuracy": float(
            sklearn_metrics.recall_score(targets_N, predicted_N, labels=present, average="macro", zero_division=0)
        ),
        "macro_f1": float(sklearn_metrics.f1_score(targets_N, predicted_N, average="macro", zero_division=0)),
        "roc_auc": float(np.mean(areas)) if areas else float("nan"),
        "log_loss": float(sklearn_metrics.log_loss(targets_N, probabilities_NK, labels=range(classes))),
        "calibration_error": calibration_error(probabilities_NK, targets_N),
    }


def calibration_error(probabilities_NK: Floats, targets_N: Integers) -> float:
    """Expected calibration error of the predicted class, 0 to 1, over 15 bins of equal width.

    The mean distance between confidence and accuracy, weighted by the samples in each bin: Naeini et al. 2015,
    "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; Guo et al. 2017, equation 3.
    """
    gaps = np.bincount(
        confidence_bins(probabilities_NK),
        weights=probabilities_NK.max(axis=1) - (probabilities_NK.argmax(axis=1) == targets_N),
    )
    return float(np.abs(gaps).sum() / len(targets_N))


def confidence_bins(probabilities_NK: Floats) -> npt.NDArray[np.int64]:
    """The bin, 0 to 14, that the largest probability of each sample falls into; bins are open below, as Guo's."""
    bins_N: npt.NDArray[np.int64] = np.ceil(probabilities_NK.max(axis=1) * CALIBRATION_BINS).astype(np.int64) - 1
    return bins_N.clip(0, CALIBRATION_BINS - 1)


def weighted_metrics(probabilities_NK: Floats, targets_N: Integers, weights_NB: Floats | Integers) -> dict[str, Floats]:
    """The metrics under B weightings of the samples at once: what a bootstrap of many resamples needs.

    Every metric is built from sums over groups of samples, so one sparse matrix product gives it for all B.
    Weights are non-negative counts or importances. Returns the figures of `classification_metrics`, shape B,
    and precision, recall and f1 per class, shape K x B; undefined ones are NaN.
    """
    samples, classes = probabilities_NK.shape
    weights_NB = weights_NB.astype(np.float32)
    total_B = weights_NB.sum(axis=0, dtype=np.float64)
    predicted_N = probabilities_NK.argmax(axis=1)
    correct_N = predicted_N == targets_N

    hits_KB = _sums(targets_N, correct_N, classes) @ weights_NB
    support_KB = _sums(targets_N, np.ones(samples), classes) @ weights_NB
    claims_KB = _sums(predicted_N, np.ones(samples), classes) @ weights_NB
    recall_KB = _ratio(hits_KB, support_KB)
    f1_KB = _ratio(2 * hits_KB, support_KB + claims_KB)

    gaps_N = probabilities_NK.max(axis=1) - correct_N
    gaps_GB = _sums(confidence_bins(probabilities_NK), gaps_N, CALIBRATION_BINS) @ weights_NB
    likelihood_N = probabilities_NK[np.arange(samples), targets_N].clip(np.finfo(np.float64).eps)
    ranked = range(classes) if classes > 2 else [classes - 1]
    area_KB = np.stack([_weighted_roc_auc(probabilities_NK[:, k], targets_N == k, weights_NB) for k in ranked])
    return {
        "accuracy": hits_KB.sum(axis=0) / total_B,
        "balanced_accuracy": _mean_of_defined(recall_KB),
        "macro_f1": _mean_of_defined(f1_KB),
        "roc_auc": _mean_of_defined(area_KB),
        "log_loss": -np.log(likelihood_N).astype(np.float32) @ weights_NB / total_B,
        "calibration_error": np.abs(gaps_GB).sum(axis=0) / total_B,
        "precision": _ratio(hits_KB, claims_KB),
        "recall": recall_KB,
        "f1": f1_KB,
    }


def resampled_metrics(probabilities_NK: Floats, targets_N: Integers, bootstrap: int, seed: int) -> dict[str, Floats]:
    """`weighted_metrics` of every bootstrap resample, the resamples on the last axis.

    The same seed draws the same resamples of as many samples: differences of two models' figures are paired.
    """
    samples = len(targets_N)
    generator = np.random.default_rng(seed)
    most = max(1, BLOCK_ENTRIES // samples)
    sizes = [min(most, bootstrap - start) for start in range(0, bootstrap, most)] or [0]
    blocks = [
        weighted_metrics(probabilities_NK, targets_N, _resample_counts(samples, size, generator)) for size in sizes
    ]
    return {name: np.concatenate([block[name] for block in blocks], axis=-1) for name in blocks[0]}


def robustness(
    corrupted: Mapping[Corruption, Floats], severities: Mapping[Corruption, float], targets_N: Integers
) -> pd.DataFrame:
    """Accuracy on corrupted images, with Wilson's interval: the rows of `Evaluation.robustness`.

    `corrupted` holds the probabilities N x K under each corruption of `labline.corruptions`, `severities` how bad
    it was.
    """
    found = []
    for name, probabilities_NK in corrupted.items():
        right = int((probabilities_NK.argmax(axis=1) == targets_N).sum())
        found.append((name, severities[name], right / len(targets_N), *wilson_interval(right, len(targets_N))))
    return _robustness_table(found)


def named_figures(evaluation: Evaluation) -> tuple[dict[str, float], dict[str, Interval]]:
    """Every figure that a gate can name, and its interval: the metrics, and accuracy under each corruption."""
    metrics, intervals = dict(evaluation.metrics), dict(evaluation.intervals)
    for name, _, accuracy, low, high in evaluation.robustness.itertuples(index=False):
        metrics[f"accuracy_{name}"], intervals[f"accuracy_{name}"] = accuracy, (low, high)
    return metrics, intervals


def wilson_interval(right: int, samples: int) -> Interval:
    """The 95 % interval of a share.

    Wilson's (1927, "Probable Inference, the Law of Succession, and Statistical Inference"): it stays
    honest where samples are few and at 100 %, where every resample of a bootstrap is perfect.
    """
    ends = stats.binomtest(right, samples).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    return float(ends.low), float(ends.high)


def slice_values(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """For each slice name, which of its values every row has, as a categorical without empty categories.

    Slices are thirds of brightness, contrast and original size, and the sources, where these vary.
    """
    values = {}
    for name, column in SLICED_STATISTICS.items():
        if rows[column].nunique() > 1:
            thirds = pd.qcut(rows[column], 3, duplicates="drop")
            limits = rows[column].groupby(thirds, observed=True).agg(["min", "max"])
            ranges = {third: _range(ends["min"], ends["max"]) for third, ends in limits.iterrows()}
            values[name] = thirds.cat.remove_unused_categories().cat.rename_categories(ranges)
    if 1 < rows["source"].nunique() <= MOST_SOURCES:
        values["source"] = rows["source"].astype(str).astype("category")
    return {name: value for name, value in values.items() if len(value.cat.categories) > 1}


def checked_probabilities(
    probabilities_NK: Floats,
    targets_N: Integers,
    labels: tuple[str, ...],
    rows: pd.DataFrame,
    where: str = "evaluation",
) -> npt.NDArray[np.float64]:
    """The probabilities in double precision, each row summing to one.

    Raises BadInput, which begins with `where`, where they cannot be that, or where the shapes disagree.
    """
    shape = (len(targets_N), len(labels))
    if probabilities_NK.shape != shape or len(rows) != len(targets_N):
        raise BadInput(
            f"{where}: probabilities are {probabilities_NK.shape} and manifest rows {len(rows)}, expected "
            f"{shape} and {len(targets_N)} (targets x labels); pass the predictions and the rows of one split"
        )
    if len(targets_N) == 0 or len(labels) < 2:
        raise BadInput(
            f"{where}: {len(targets_N)} samples of {len(labels)} classes, expected at least 1 sample and 2 classes; "
            "check the split's share and the label set in the declaration"
        )
    if targets_N.min() < 0 or targets_N.max() >= len(labels):
        raise BadInput(
            f"{where}: targets lie within {targets_N.min()} to {targets_N.max()}, expected 0 to {len(labels) - 1}; "
            "a label outside the label set has index -1: quarantine its rows first"
        )
    exact_NK = probabilities_NK.astype(np.float64)
    sums_N = exact_NK.sum(axis=1)
    if not (np.isfinite(exact_NK).all() and exact_NK.min() >= 0 and np.abs(sums_N - 1).max() < 1e-2):
        raise BadInput(
            f"{where}: values within {exact_NK.min():.3g} to {exact_NK.max():.3g} are not probabilities that sum "
            "to 1 in each row; pass softmax(logits), and look for NaN in the training curves"
        )
    normalized_NK: npt.NDArray[np.float64] = exact_NK / sums_N[:, None]
    return normalized_NK


def mistakes(
    probabilities_NK: Floats, targets_N: Integers, labels: tuple[str, ...], rows: pd.DataFrame, most: int = 25
) -> pd.DataFrame:
    """The wrong decisions with the largest log loss, worst first: for people to look at.

    Columns sample_id, row (position in images.npy), label, predicted, confidence (of the prediction, 0 to 1),
    loss (nats). Empty where every decision is right.
    """
    probabilities_NK = checked_probabilities(probabilities_NK, targets_N, labels, rows)
    predicted_N = probabilities_NK.argmax(axis=1)
    names = np.asarray(labels)
    likelihood_N = probabilities_NK[np.arange(len(targets_N)), targets_N]
    table = pd.DataFrame(
        {
            "sample_id": rows["sample_id"].to_numpy(),
            "row": rows["row"].to_numpy(),
            "label": names[targets_N],
            "predicted": names[predicted_N],
            "confidence": probabilities_NK.max(axis=1),
            "loss": -np.log(likelihood_N.clip(np.finfo(np.float64).eps)),
        }
    )
    wrong: pd.DataFrame = table[predicted_N != targets_N]
    return wrong.sort_values(["loss", "sample_id"], ascending=[False, True]).head(most).reset_index(drop=True)


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation as JSON, with NaN as null."""
    document = {
        "labels": evaluation.labels,
        "samples": evaluation.samples,
        "metrics": evaluation.metrics,
        "intervals": evaluation.intervals,
        "per_class": evaluation.per_class.to_dict("list"),
        "slices": evaluation.slices.to_dict("list"),
        "confusion": evaluation.confusion.tolist(),
        "robustness": evaluation.robustness.to_dict("list"),
    }
    path.write_text(json.dumps(nan_to_null(document), indent=2, allow_nan=False))


def open_evaluation(path: Path) -> Evaluation:
    """Read back what `write_evaluation` wrote."""
    document = json.loads(path.read_text())
    return Evaluation(
        labels=tuple(document["labels"]),
        samples=document["samples"],
        metrics={name: _number(value) for name, value in document["metrics"].items()},
        intervals={name: (_number(low), _number(high)) for name, (low, high) in document["intervals"].items()},
        per_class=pd.DataFrame(document["per_class"]).astype(PER_CLASS_TYPES),
        slices=pd.DataFrame(document["slices"]).astype(SLICE_TYPES),
        confusion=np.asarray(document["confusion"], dtype=np.int64),
        robustness=_robustness_table(document.get("robustness", {})),  # absent in versions of before labline had it
    )


def _resample_counts(samples: int, resamples: int, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """How often each sample is drawn in each resample with replacement, N x B."""
    drawn_NB = generator.integers(samples, size=(samples, resamples))
    cells = (drawn_NB * resamples + np.arange(resamples)).ravel()
    return np.bincount(cells, minlength=samples * resamples).reshape(samples, resamples).astype(np.float32)


def _weighted_roc_auc(scores_N: Floats, positive_N: npt.NDArray[np.bool_], weights_NB: Floats) -> Floats:
    """Area under the ROC curve for each column of weights; NaN where one side has no weight.

    The Mann-Whitney statistic with ties counted half: Hanley & McNeil 1982, "The Meaning and Use of the Area
    under a ROC Curve".
    """
    distinct, rank_N = np.unique(scores_N, return_inverse=True)
    positives_GB = _sums(rank_N, positive_N, len(distinct)) @ weights_NB
    negatives_GB = _sums(rank_N, ~positive_N, len(distinct)) @ weights_NB
    below_GB = np.cumsum(negatives_GB, axis=0)
    wins_B = np.einsum("gb,gb->b", positives_GB, below_GB - negatives_GB / 2)
    return _ratio(wins_B, positives_GB.sum(axis=0) * below_GB[-1])


def _sums(groups_N: Integers, values_N: npt.NDArray[np.generic], size: int) -> sparse.csr_array:
    """The matrix, `size` x N, whose product with weights sums `values_N` over the samples of each group."""
    used = np.flatnonzero(values_N)
    entries = values_N[used].astype(np.float32)
    return sparse.csr_array((entries, (groups_N[used], used)), shape=(size, len(groups_N)))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    undefined = np.full(numerator.shape, np.nan, dtype=np.float64)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _mean_of_defined(values_KB: Floats) -> Floats:
    """Mean over the first axis of what is not NaN; NaN where nothing is left."""
    defined_KB = ~np.isnan(values_KB)
    return _ratio(np.where(defined_KB, values_KB, 0.0).sum(axis=0), defined_KB.sum(axis=0).astype(np.float64))


def _interval(values_B: Floats) -> Interval:
    """The central 95 % of the defined values."""
    defined = values_B[~np.isnan(values_B)]
    if defined.size == 0:
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def _per_class(
    targets_N: Integers, predicted_N: Integers, labels: tuple[str, ...], values: dict[str, Floats]
) -> pd.DataFrame:
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        targets_N, predicted_N, labels=range(len(labels)), zero_division=np.nan
    )
    columns: dict[str, object] = {"label": labels, "support": support}
    for name, points in {"precision": precision, "recall": recall, "f1": f1}.items():
        ends = np.array([_interval(values[name][k]) for k in range(len(labels))])
        columns |= {name: points, f"{name}_low": ends[:, 0], f"{name}_high": ends[:, 1]}
    return pd.DataFrame(columns).astype(PER_CLASS_TYPES)


def _slices(correct_N: npt.NDArray[np.bool_], rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy within every slice, with Wilson's interval."""
    found = []
    for name, value_N in slice_values(rows).items():
        for value in value_N.cat.categories:
            inside = (value_N == value).to_numpy()
            right, support = int(correct_N[inside].sum()), int(inside.sum())
            found.append((name, str(value), support, right / support, *wilson_interval(right, support)))
    return pd.DataFrame(found, columns=list(SLICE_TYPES)).astype(SLICE_TYPES)


def _robustness_table(found: Sequence[tuple[object, ...]] | Mapping[str, object]) -> pd.DataFrame:
    return pd.DataFrame(found, columns=list(ROBUSTNESS_TYPES)).astype(ROBUSTNESS_TYPES)


def _range(low: float, high: float) -> str:
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
