"""A version examined: its recent predictions against its reference, from drift and estimates to the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.evaluation import wilson_interval
from labline.monitoring.declaration import Monitoring
from labline.monitoring.drift_streams import DriftStreams, drift_streams
from labline.monitoring.estimation import Estimate, Estimator, fit_estimator
from labline.monitoring.input_drift import input_drift
from labline.monitoring.performance import Loss, Performance, counted, losses, performance
from labline.monitoring.prediction_drift import PredictionDrift, prediction_drift
from labline.monitoring.samples import OF_THE_FILE, Samples, reference_samples, window_samples
from labline.monitoring.sequential import detect
from labline.monitoring.two_sample import TwoSample, two_sample_test
from labline.monitoring.verdict import Change, Findings, Verdict, judge, threshold
from labline.reference import Reference

Floats = npt.NDArray[np.float64]

CAP = 0.99  # a forecaster's loss counts up to this quantile of the reference's


@dataclass(frozen=True)
class Examiner:
    """Everything that a version's windows are compared with, prepared once.

    `loss_cap` scales losses to 0 to 1, `loss_bound` is what their mean may be. `estimator` is None for a forecaster,
    whose loss is not estimated: no calibrated confidence says how wrong a number is.
    """

    reference: Reference
    samples: Samples
    rules: Monitoring
    metric: Loss
    streams: DriftStreams
    estimator: Estimator | None
    loss_cap: float
    loss_bound: float

    def findings(self, window: Samples) -> Findings:
        """Evidence of drift and of loss, the estimate since the change, and what labels say."""
        drift = detect(self.streams.scores(window), self.streams.bounds, self.rules.predictions_per_year)
        loss = detect(self.loss_scores(window)[:, None], np.array([self.loss_bound]), self.rules.predictions_per_year)
        change = None
        if drift.log_value >= threshold(self.rules):
            change = self._change(window, drift.start, self.streams.names[drift.stream])
        return Findings(len(window), drift, change, loss, performance(self.samples, window, self.metric))

    def loss_scores(self, window: Samples) -> Floats:
        """The loss of each prediction as a share of the cap, 0 to 1; NaN without a label that counts."""
        scores_N: Floats = np.clip(losses(window, self.metric) / self.loss_cap, 0, 1)
        return np.where(counted(window), scores_N, np.nan)

    def _change(self, window: Samples, start: int, where: str) -> Change:
        changed = window.since(start)
        enough = self.estimator is not None and len(changed) >= self.rules.fewest
        estimate = self.estimator.estimate(changed) if enough and self.estimator is not None else None
        return Change(start, len(changed), where, estimate)


@dataclass(frozen=True)
class Examination:
    """What was found in a window of `predictions` from `first` to `last` (ids), and the verdict.

    `inputs`: the table of `input_drift`. `embedding` is None where the version has none, `estimate` (of the whole
    window) where nothing can be estimated.
    """

    first: str
    last: str
    inputs: pd.DataFrame
    embedding: TwoSample | None
    answers: PredictionDrift
    estimate: Estimate | None
    findings: Findings
    verdict: Verdict


def prepare(
    reference: Reference, rules: Monitoring, shifted: Reference | None = None, metric: Loss = "accuracy"
) -> Examiner:
    """Prepare a version's reference, and its shifted copies where there are any, for any number of windows."""
    samples = reference_samples(reference)
    loss_N = losses(samples, metric)
    if metric == "accuracy":
        wrong = int(loss_N.sum())
        cap, bound = 1.0, max(wrong / len(loss_N) + rules.max_drop, wilson_interval(wrong, len(loss_N))[1])
    else:
        cap = float(np.nanquantile(loss_N, CAP)) or 1.0
        bound = float(np.nanmean(np.clip(loss_N / cap, 0, 1))) * (1 + rules.max_rise)
    return Examiner(
        reference=reference,
        samples=samples,
        rules=rules,
        metric=metric,
        streams=drift_streams(samples, rules.tolerance),
        estimator=fit_estimator(reference, shifted) if samples.classifies else None,
        loss_cap=cap,
        loss_bound=float(np.clip(bound, 1e-3, 0.98)),
    )


def examine(
    examiner: Examiner,
    window: pd.DataFrame,
    predecessor: Performance | None = None,
    since_promotion: int | None = None,
) -> Examination | None:
    """Examine the latest predictions of `FeedbackStore.window`; None where there are none.

    A pure function of the window: looked at twice, it says the same twice.
    """
    recent = window.tail(examiner.rules.window).reset_index(drop=True)
    if recent.empty:
        return None
    samples = window_samples(recent, examiner.reference)
    found = examiner.findings(samples)
    inputs = input_drift(examiner.samples.features, samples.features)
    judged = inputs[~inputs["feature"].isin(OF_THE_FILE)]
    both = samples.embedding is not None and examiner.samples.embedding is not None
    return Examination(
        first=str(recent["id"].iloc[0]),
        last=str(recent["id"].iloc[-1]),
        inputs=inputs,
        embedding=two_sample_test(examiner.samples.embedding, samples.embedding) if both else None,  # type: ignore[arg-type]
        answers=prediction_drift(examiner.samples, samples),
        estimate=examiner.estimator.estimate(samples) if examiner.estimator else None,
        findings=found,
        verdict=judge(found, examiner.rules, judged, predecessor, since_promotion),
    )
