"""Evaluation: figures agree with scikit-learn, intervals with the bootstrap they stand for."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sklearn_metrics

from labline.errors import BadInput
from labline.evaluation import (
    calibration_error,
    classification_metrics,
    evaluate,
    mistakes,
    named_figures,
    open_evaluation,
    robustness,
    weighted_metrics,
    write_evaluation,
)

Predictions = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], tuple[str, ...], pd.DataFrame]

METRICS = ["accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss", "calibration_error"]


def predictions(samples: int = 200, classes: int = 3, skill: float = 1.5, seed: int = 0) -> Predictions:
    """Probabilities of a classifier that is right more often the larger its skill, with manifest rows."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(classes, size=samples)
    logits = generator.normal(size=(samples, classes))
    logits[np.arange(samples), targets] += skill
    labels = tuple(f"class {k}" for k in range(classes))
    rows = pd.DataFrame(
        {
            "sample_id": [f"{labels[k]}/{n}.png" for n, k in enumerate(targets)],
            "row": np.arange(samples) + 1000,
            "source": "steel.zip",
            "width": 200,
            "height": 200,
            "mean": generator.uniform(0, 255, samples),
            "std": generator.uniform(0, 80, samples),
        }
    )
    return softmax(logits, axis=1), targets, labels, rows


drawn_predictions = st.builds(
    predictions, st.integers(1, 60), st.integers(2, 5), st.floats(-2, 8), st.integers(0, 2**32 - 1)
)


def test_every_metric_has_an_interval_around_its_value() -> None:
    evaluation = evaluate(*predictions(samples=2000))
    assert list(evaluation.metrics) == list(evaluation.intervals) == METRICS
    for name, (low, high) in evaluation.intervals.items():
        assert low < evaluation.metrics[name] < high, name


def test_the_accuracy_interval_is_about_two_standard_errors_to_each_side() -> None:
    evaluation = evaluate(*predictions(samples=2000))
    accuracy = evaluation.metrics["accuracy"]
    low, high = evaluation.intervals["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(accuracy * (1 - accuracy) / 2000), rel=0.1)


def test_a_perfect_accuracy_of_few_samples_stays_uncertain() -> None:
    low, high = evaluate(*predictions(samples=20, skill=50)).intervals["accuracy"]
    assert high == 1
    assert low == pytest.approx(1 / (1 + 1.96**2 / 20), abs=1e-3)  # Wilson's at a share of 1


def test_robustness_is_accuracy_on_other_images() -> None:
    probabilities, targets, _, _ = predictions(samples=400)
    blind = np.full_like(probabilities, 1 / 3)
    table = robustness({"noise": probabilities, "blur": blind}, {"noise": 0.1, "blur": 0.8}, targets)
    assert table["corruption"].tolist() == ["noise", "blur"]
    assert table["severity"].tolist() == [0.1, 0.8]
    assert table["accuracy"].tolist() == [(probabilities.argmax(axis=1) == targets).mean(), (targets == 0).mean()]
    assert ((table["low"] < table["accuracy"]) & (table["accuracy"] < table["high"])).all()


def test_a_gate_can_name_the_metrics_and_the_accuracy_under_corruption() -> None:
    drawn = predictions()
    evaluation = replace(evaluate(*drawn), robustness=robustness({"noise": drawn[0]}, {"noise": 0.1}, drawn[1]))
    figures, intervals = named_figures(evaluation)
    assert list(figures) == list(intervals) == [*METRICS, "accuracy_noise"]
    assert figures["accuracy_noise"] == figures["accuracy"]
    assert intervals["accuracy_noise"] == intervals["accuracy"]


def test_confusion_and_classes_count_every_sample() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    targets = np.array([0, 1, 1, 0])
    evaluation = evaluate(probabilities, targets, ("good", "bad"), predictions(4)[3])
    assert evaluation.confusion.tolist() == [[2, 0], [1, 1]]
    assert evaluation.per_class["support"].tolist() == [2, 2]
    assert evaluation.per_class["recall"].tolist() == [1.0, 0.5]
    assert evaluation.per_class["precision"].tolist() == [pytest.approx(2 / 3), 1.0]


def test_with_two_classes_the_last_is_the_positive_one() -> None:
    probabilities, targets, _, _ = predictions(classes=2)
    expected = sklearn_metrics.roc_auc_score(targets, probabilities[:, 1])
    assert classification_metrics(probabilities, targets)["roc_auc"] == pytest.approx(expected)


def test_calibration_error_of_one_bin_is_confidence_less_accuracy() -> None:
    probabilities = np.tile([0.9, 0.1], (10, 1))
    targets = np.array([0] * 6 + [1] * 4)
    assert calibration_error(probabilities, targets) == pytest.approx(0.9 - 0.6)


@given(drawn=drawn_predictions, weights_seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_weighted_metrics_are_those_of_the_repeated_samples(drawn: Predictions, weights_seed: int) -> None:
    probabilities, targets, _, _ = drawn
    probabilities = probabilities.round(2) + 1e-9  # ties, which the ranks must count half
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    counts = np.random.default_rng(weights_seed).integers(0, 4, size=(len(targets), 1))
    counts[0] = 1
    repeated = np.repeat(np.arange(len(targets)), counts[:, 0])
    expected = classification_metrics(probabilities[repeated], targets[repeated])
    weighted = weighted_metrics(probabilities, targets, counts)
    for name in METRICS:
        assert weighted[name][0] == pytest.approx(expected[name], rel=1e-4, abs=1e-6, nan_ok=True), name


@given(drawn=drawn_predictions)
@settings(max_examples=25, deadline=None)
def test_figures_stay_in_range_and_nothing_warns(drawn: Predictions) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation = evaluate(*drawn, bootstrap=30)
    for name, value in evaluation.metrics.items():
        low, high = evaluation.intervals[name]
        if np.isnan(value):
            assert name == "roc_auc"
            assert np.isnan([low, high]).all()
        else:
            assert 0 <= low <= high
            assert 0 <= value <= (np.inf if name == "log_loss" else 1 + 1e-9)
    assert evaluation.confusion.sum() == evaluation.samples
    assert (
        evaluation.slices["accuracy"].between(evaluation.slices["low"] - 1e-9, evaluation.slices["high"] + 1e-9).all()
    )


@given(drawn=drawn_predictions, order_seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_the_order_of_samples_does_not_matter(drawn: Predictions, order_seed: int) -> None:
    probabilities, targets, labels, rows = drawn
    order = np.random.default_rng(order_seed).permutation(len(targets))
    plain = evaluate(probabilities, targets, labels, rows, bootstrap=0)
    shuffled = evaluate(probabilities[order], targets[order], labels, rows.iloc[order], bootstrap=0)
    assert shuffled.metrics == pytest.approx(plain.metrics, nan_ok=True)
    assert (shuffled.confusion == plain.confusion).all()
    pd.testing.assert_frame_equal(shuffled.slices, plain.slices)


def test_intervals_repeat_with_the_seed() -> None:
    drawn = predictions()
    assert evaluate(*drawn, seed=1).intervals == evaluate(*drawn, seed=1).intervals
    assert evaluate(*drawn, seed=1).intervals != evaluate(*drawn, seed=2).intervals


def test_a_class_without_samples_is_left_out_of_means() -> None:
    probabilities, targets, labels, rows = predictions(classes=3)
    seen = targets != 2
    evaluation = evaluate(probabilities[seen], targets[seen], labels, rows[seen])
    assert evaluation.per_class["support"].tolist()[2] == 0
    assert np.isnan(evaluation.per_class["recall"][2])
    assert evaluation.metrics["balanced_accuracy"] == pytest.approx(evaluation.per_class["recall"][:2].mean())
    assert 0 < evaluation.metrics["roc_auc"] < 1


def test_a_single_sample_has_no_roc_auc_and_no_slices() -> None:
    evaluation = evaluate(*predictions(samples=1))
    assert np.isnan(evaluation.metrics["roc_auc"])
    assert np.isnan(evaluation.intervals["roc_auc"]).all()
    assert evaluation.slices.empty


def test_slices_show_where_the_model_is_weak() -> None:
    probabilities, targets, labels, rows = predictions(samples=300, skill=50)
    dark = rows["mean"] < rows["mean"].quantile(1 / 3)
    probabilities[dark] = np.roll(probabilities[dark], 1, axis=1)
    slices = evaluate(probabilities, targets, labels, rows, bootstrap=10).slices
    brightness = slices[slices["slice"] == "brightness"]
    assert brightness["accuracy"].tolist() == [0, 1, 1]
    assert (brightness["low"] < 1).all()  # Wilson's interval leaves room at 100 %
    assert set(slices["slice"]) == {"brightness", "contrast"}  # one width, one source: nothing to slice


def test_mistakes_come_worst_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.99, 0.01], [0.2, 0.8], [0.6, 0.4]])
    targets = np.array([1, 1, 1, 1])
    worst = mistakes(probabilities, targets, ("good", "bad"), predictions(4)[3], most=2)
    assert worst["row"].tolist() == [1001, 1000]
    assert worst["predicted"].tolist() == ["good", "good"]
    assert worst["loss"].tolist() == pytest.approx([-np.log(0.01), -np.log(0.1)])


@pytest.mark.parametrize("samples", [1, 50])
def test_an_evaluation_survives_the_disk(samples: int, tmp_path: Path) -> None:
    drawn = predictions(samples)
    measured = robustness({"blur": drawn[0]}, {"blur": 0.8}, drawn[1])
    evaluation = replace(evaluate(*drawn, bootstrap=20), robustness=measured)
    write_evaluation(evaluation, tmp_path / "evaluation.json")
    opened = open_evaluation(tmp_path / "evaluation.json")
    assert opened.metrics == pytest.approx(evaluation.metrics, nan_ok=True)
    assert opened.labels == evaluation.labels
    assert (opened.confusion == evaluation.confusion).all()
    pd.testing.assert_frame_equal(opened.per_class, evaluation.per_class)
    pd.testing.assert_frame_equal(opened.slices, evaluation.slices)
    pd.testing.assert_frame_equal(opened.robustness, evaluation.robustness)


def test_an_evaluation_written_before_robustness_was_measured_still_opens(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    write_evaluation(evaluate(*predictions(), bootstrap=20), path)
    document = json.loads(path.read_text())
    assert document.pop("robustness")["corruption"] == []
    path.write_text(json.dumps(document))
    assert open_evaluation(path).robustness.empty


def test_logits_are_refused() -> None:
    probabilities, targets, labels, rows = predictions()
    with pytest.raises(BadInput, match=r"softmax\(logits\)"):
        evaluate(np.log(probabilities), targets, labels, rows)


def test_rows_of_another_split_are_refused() -> None:
    probabilities, targets, labels, rows = predictions()
    with pytest.raises(BadInput, match="rows of one split"):
        evaluate(probabilities, targets, labels, rows[:-1])


def test_an_empty_split_is_refused() -> None:
    probabilities, targets, labels, rows = predictions()
    with pytest.raises(BadInput, match="at least 1 sample"):
        evaluate(probabilities[:0], targets[:0], labels, rows[:0])


def test_a_label_outside_the_label_set_is_refused() -> None:
    probabilities, targets, labels, rows = predictions()
    with pytest.raises(BadInput, match="index -1"):
        evaluate(probabilities, targets - 1, labels, rows)
