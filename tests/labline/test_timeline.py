"""Accuracy from prediction to prediction, as a picture."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from labline.timeline import accuracy_timeline

FIRST = 1e9  # when the first prediction was answered


def predictions(accuracies: dict[str, float], each: int = 300, labelled: int = 1) -> pd.DataFrame:
    """So many predictions of each version, a second apart; each `labelled`-th has a label."""
    count = each * len(accuracies)
    right = np.concatenate([np.arange(each) % 100 < 100 * accuracy for accuracy in accuracies.values()])
    labels = np.where(np.arange(count) % labelled == 0, "a", None)
    at = FIRST + np.arange(count)
    answers = np.where(right, "a", "b")
    return pd.DataFrame({"at": at, "version": np.repeat(list(accuracies), each), "answer": answers, "label": labels})


def curves(figure: Figure) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_ydata()) for line in figure.axes[0].get_lines()}


def words(figure: Figure) -> str:
    figure.savefig("/dev/null", format="png")
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_each_version_has_its_own_curve_at_its_accuracy() -> None:
    drawn = curves(accuracy_timeline(predictions({"1": 0.6, "2": 0.9}), [], baseline=0.93))
    assert drawn["version 1"][-1] == pytest.approx(0.6)
    assert drawn["version 2"][-1] == pytest.approx(0.9)
    assert len(drawn["version 2"]) == 300, "a new version begins a new curve"


def test_only_labelled_predictions_are_counted_in_the_order_of_time() -> None:
    shuffled = predictions({"1": 0.6}, labelled=3).sample(frac=1, random_state=0)
    assert len(curves(accuracy_timeline(shuffled, [], baseline=0.9))["version 1"]) == 100


def test_events_are_numbered_where_they_happened_and_told_below() -> None:
    events = [(FIRST + 99.5, "the light grows dim"), (FIRST + 299.5, "retrain"), (FIRST + 299.8, "version 2")]
    figure = accuracy_timeline(predictions({"1": 0.6, "2": 0.9}), events, baseline=0.93)
    shown = words(figure)
    assert all(text in shown for _, text in events)
    places = [line.get_xdata()[0] for line in figure.axes[0].get_lines() if line.get_linestyle() == ":"]  # type: ignore[index]
    assert places == [99.5, 299.5], "what happens between the same two predictions shares a line"
    assert "2 3" in shown


def test_nothing_labelled_yet_is_an_empty_picture() -> None:
    nothing = predictions({"1": 0.6}).assign(label=None)
    assert list(curves(accuracy_timeline(nothing, [], baseline=0.9))) == ["test set of the first version"]
