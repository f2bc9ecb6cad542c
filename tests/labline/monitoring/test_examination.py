"""A version examined: each verdict has its case, its reasons, and is the same when it is asked for again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from saved_reference import answers, shifted_answers, window

from labline.errors import BadInput
from labline.monitoring.declaration import Monitoring
from labline.monitoring.examination import Examination, Examiner, examine, prepare
from labline.monitoring.performance import Performance, performance
from labline.monitoring.samples import window_samples
from labline.reference import Reference

RULES = Monitoring(predictions_per_year=50_000)


@pytest.fixture(scope="module")
def examiner() -> Examiner:
    return prepare(answers(800, 0), RULES, shifted_answers())


def after(examiner: Examiner, *windows: pd.DataFrame) -> Examination:
    found = examine(examiner, pd.concat(windows, ignore_index=True))
    assert found is not None
    return found


def test_a_healthy_window_is_healthy(examiner: Examiner) -> None:
    found = after(examiner, window(answers(1500, 1), label_share=0.3))
    assert found.verdict.kind == "healthy"
    assert "1,500 predictions show neither drift nor loss" in found.verdict.reasons[0]
    assert found.findings.performance.labelled > 400
    assert (found.first, found.last) == ("00000000", "00001499")


def test_too_few_predictions_are_said_to_be_too_few(examiner: Examiner) -> None:
    assert "too few" in after(examiner, window(answers(20, 1))).verdict.reasons[0]
    assert examine(examiner, window(answers(20, 1)).head(0)) is None


def test_drift_that_costs_accuracy_calls_for_retraining_without_a_label(examiner: Examiner) -> None:
    found = after(examiner, window(answers(1000, 1)), window(answers(400, 2, noise=0.2), first=1000))
    assert found.verdict.kind == "retrain"
    assert found.findings.performance.labelled == 0
    change = found.findings.change
    assert change is not None and abs(change.start - 1000) < 40
    assert "without labels" in found.verdict.reasons[0]
    assert any("drift over the last" in reason for reason in found.verdict.reasons)


def test_drift_without_an_estimated_loss_is_worth_a_look_and_names_the_feature(examiner: Examiner) -> None:
    found = after(examiner, window(answers(500, 1)), window(answers(500, 2, light=0.4), first=500))
    assert found.verdict.kind == "watch"
    assert any(reason.startswith("mean:") for reason in found.verdict.reasons)
    assert found.inputs["feature"].iloc[0] == "mean"


def test_other_shares_of_classes_are_worth_a_look_and_said(examiner: Examiner) -> None:
    drawn = answers(1500, 2)
    mostly = np.flatnonzero((drawn.rows["label"] == "dent") | (np.arange(1500) % 5 == 0))[:500]
    dented = Reference(
        drawn.rows.iloc[mostly].reset_index(drop=True), drawn.outputs[mostly], drawn.embedding[mostly], drawn.features
    )
    found = after(examiner, window(answers(500, 1)), window(dented, first=500))
    assert found.verdict.kind == "watch"
    assert any("% dent" in reason for reason in found.verdict.reasons)


def concept_drift(count: int, share: float, source: str = "operator") -> pd.DataFrame:
    """The same pictures and answers, other truth: nothing but labels can tell."""
    drifted = answers(count, 3)
    drifted.rows["label"] = np.where(np.random.default_rng(4).random(count) < 0.3, "good", drifted.rows["label"])
    return window(drifted, label_share=share, source=source, first=1000)


def test_labels_call_for_retraining_where_nothing_else_can_tell(examiner: Examiner) -> None:
    found = after(examiner, window(answers(1000, 1), label_share=0.3), concept_drift(1500, 0.3))
    assert found.verdict.kind == "retrain"
    assert "accuracy measured on" in found.verdict.reasons[0]
    assert found.findings.change is None


def test_labels_of_the_review_queue_are_no_evidence(examiner: Examiner) -> None:
    found = after(examiner, window(answers(1000, 1)), concept_drift(1500, 0.3, source="review"))
    assert found.verdict.kind == "healthy"
    assert found.findings.performance.labelled == 0


def test_a_new_version_worse_than_the_one_before_is_rolled_back_while_it_is_new(examiner: Examiner) -> None:
    bad = concept_drift(1500, 0.5)
    before = performance(examiner.samples, window_samples(window(answers(900, 5), 0.9), examiner.reference))
    for since, kind in ((1500, "rollback"), (RULES.rollback_within + 1, "retrain")):
        found = examine(examiner, bad, predecessor=before, since_promotion=since)
        assert found is not None and found.verdict.kind == kind


def test_a_verdict_asked_for_twice_is_the_same(examiner: Examiner) -> None:
    seen = window(answers(600, 1, noise=0.1), label_share=0.2)
    first, second = after(examiner, seen), after(examiner, seen)
    assert first.verdict == second.verdict
    assert first.estimate == second.estimate and first.embedding == second.embedding


def test_a_window_of_another_version_is_refused(examiner: Examiner) -> None:
    other = window(answers(200, 1))
    other["outputs"] = [[0.5, 0.5]] * 200
    with pytest.raises(BadInput, match=r"predictions of \[2\] outputs, the reference has 3"):
        examine(examiner, other)


def volatility(count: int, seed: int, level: float = 0.0, error: float = 0.2) -> Reference:
    """Forecasts of log volatility, their deviation, and what came true."""
    generator = np.random.default_rng(seed)
    forecast = generator.normal(-2 + level, 0.3, count)
    rows = pd.DataFrame({"sample_id": np.arange(count), "answer": forecast, "confidence": np.nan})
    rows["target"] = forecast + generator.normal(0, error, count)
    rows["log-return(close)"] = generator.normal(0, 0.01 * np.exp(level), count)
    outputs = np.stack([forecast, np.full(count, 0.2)], axis=1).astype(np.float32)
    return Reference(rows, outputs, None, ("log-return(close)",))


def forecasts(answered: Reference) -> pd.DataFrame:
    rows = answered.rows
    return pd.DataFrame(
        {
            "id": [f"{number:06d}" for number in range(len(rows))],
            "answer": [repr(value) for value in rows["answer"]],
            "outputs": answered.outputs.tolist(),
            "embedding": b"",
            "label": [repr(value) for value in rows["target"]],
            "label_source": "market",
            "log-return(close)": rows["log-return(close)"],
        }
    )


@pytest.mark.parametrize(
    ("level", "error", "kind"), [(0.0, 0.2, "healthy"), (1.0, 0.2, "watch"), (1.0, 0.6, "retrain")]
)
def test_a_forecaster_is_judged_by_its_features_and_its_losses(level: float, error: float, kind: str) -> None:
    rules = Monitoring(predictions_per_year=252)
    examiner = prepare(volatility(1000, 0), rules, metric="qlike")
    found = examine(examiner, forecasts(volatility(300, 1, level, error)))
    assert found is not None and found.verdict.kind == kind
    assert found.estimate is None and found.answers.classes.empty
    assert isinstance(found.findings.performance, Performance)
