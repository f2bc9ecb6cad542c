"""Plots: each draws ordinary and awkward data, says what it must, and leaves no global state behind."""

from __future__ import annotations

import io
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from labline import plots

STEEL = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")


def words(figure: Figure) -> set[str]:
    """Draw a figure without any warning, and return every text on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png", dpi=40)
    return {text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)}


def beliefs(classes: int, samples: int = 120) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    targets = generator.integers(classes, size=samples)
    scores = generator.uniform(0.1, 1, (samples, classes)) + (targets[:, None] == np.arange(classes))
    return scores / scores.sum(axis=1, keepdims=True), targets


def pictures(count: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, channels), dtype=np.uint8)


def test_confusion_matrix_shows_counts_and_names() -> None:
    shown = words(plots.confusion_matrix(np.array([[283, 28], [23, 1290]]), ("normal", "pneumonia")))
    assert {"283", "28", "23", "1,290", "normal", "pneumonia"} <= shown


@pytest.mark.parametrize("classes", [2, 40])
def test_confusion_matrix_of_few_and_many_classes_and_of_an_absent_class(classes: int) -> None:
    confusion = np.diag(np.arange(classes))
    assert "class 0" in words(plots.confusion_matrix(confusion, [f"class {k}" for k in range(classes)]))


def test_roc_curves_name_their_areas() -> None:
    probabilities, targets = beliefs(6)
    shown = words(plots.roc_curves(probabilities, targets, STEEL))
    assert sum(text.startswith(STEEL) for text in shown) == 6


def test_roc_curve_of_two_classes_is_that_of_the_last() -> None:
    probabilities, targets = beliefs(2)
    assert "ROC curve of pneumonia" in " ".join(
        words(plots.roc_curves(probabilities, targets, ("normal", "pneumonia")))
    )


def test_roc_curves_leave_out_what_cannot_be_drawn() -> None:
    probabilities, _ = beliefs(3)
    words(plots.roc_curves(probabilities, np.zeros(len(probabilities), dtype=np.int64), ("a", "b", "c")))


def test_roc_curves_name_the_lowest_of_many() -> None:
    probabilities, targets = beliefs(20, samples=600)
    shown = words(plots.roc_curves(probabilities, targets, [f"class {k}" for k in range(20)]))
    assert sum(text.startswith("class ") for text in shown) == plots.MOST_NAMED_CURVES


def test_reliability_diagram_states_the_error() -> None:
    probabilities = np.tile([0.9, 0.1], (10, 1))
    shown = words(plots.reliability_diagram(probabilities, np.array([0] * 6 + [1] * 4)))
    assert "Reliability: calibration error 0.300" in shown


@pytest.mark.parametrize("epochs", [1, 3, 40])
def test_learning_curves_mark_the_best_epoch(epochs: int) -> None:
    accuracy = np.linspace(0.5, 0.9, epochs)
    history = pd.DataFrame(
        {
            "epoch": range(1, epochs + 1),
            "train_loss": 1 - accuracy,
            "validation_loss": 1.1 - accuracy,
            "validation_accuracy": accuracy,
            "learning_rate": 1e-3,
        }
    )
    assert any(text.endswith(f"epoch {epochs}") for text in words(plots.learning_curves(history)))


@pytest.mark.parametrize(("count", "channels"), [(0, 1), (1, 3), (23, 1)])
def test_worst_mistakes_show_every_title(count: int, channels: int) -> None:
    titles = [f"patches → scratches ({n}%)" for n in range(count)]
    assert set(titles) <= words(plots.worst_mistakes(pictures(count, channels), titles))


def test_long_titles_are_broken_rather_than_run_into_each_other() -> None:
    shown = words(plots.worst_mistakes(pictures(2), ["rolled-in_scale → pitted_surface (75%)"] * 2))
    assert "rolled-in_scale →\npitted_surface (75%)" in shown


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (8, 3), (19, 1)])
def test_contact_sheet_pairs_before_and_after(count: int, channels: int) -> None:
    assert {"before", "after"} <= words(plots.contact_sheet(pictures(count, channels), pictures(count, channels)))


def test_pareto_names_the_chosen_and_leaves_out_what_failed() -> None:
    candidates = pd.DataFrame(
        {
            "name": ["fp32", "int8-static", "pruned"],
            "metric": [0.91, 0.909, np.nan],
            "bytes": [640e3, 180e3, np.nan],
            "latency_ms_p50": [0.42, 0.17, np.nan],
            "chosen": [False, True, False],
        }
    )
    shown = words(plots.pareto(candidates))
    assert {"fp32", "int8-static (chosen)"} <= shown
    assert "pruned" not in shown


def test_pareto_of_fp32_alone() -> None:
    alone = {"name": "fp32", "metric": 1.0, "bytes": 640_000, "latency_ms_p50": 0.4, "chosen": True}
    assert "fp32 (chosen)" in words(plots.pareto(pd.DataFrame([alone])))


def test_class_balance_shows_totals() -> None:
    manifest = pd.DataFrame({"label": ["crazing"] * 3 + ["patches"], "split": ["train", "train", "test", "train"]})
    assert {"crazing", "patches", "3", "1", "train", "test"} <= words(plots.class_balance(manifest))


def test_plots_keep_away_from_pyplot() -> None:
    before = "matplotlib.pyplot" in sys.modules
    words(plots.confusion_matrix(np.eye(2, dtype=np.int64), ("a", "b")))
    assert ("matplotlib.pyplot" in sys.modules) == before
