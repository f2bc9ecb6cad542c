"""Monitoring's pictures show what they are given."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd

from labline.monitoring.plots import drift_heat_map, performance_over_time


def test_performance_has_both_curves_the_baseline_and_the_events() -> None:
    history = pd.DataFrame(
        {"at": 1.7e9 + 86400 * np.arange(4), "verdict": ["healthy", "healthy", "retrain", "healthy"]}
    )
    for name, value in (("value", 0.9), ("low", 0.85), ("high", 0.95)):
        history[name] = [value, np.nan, value - 0.2, value]
        history["estimate" if name == "value" else f"estimate_{name}"] = value
    figure = performance_over_time(history, 0.92, events=[(1.7e9 + 86400, "lighting drifts")])
    axes = figure.axes[0]
    named = {text.get_text() for text in axes.get_legend().get_texts()}
    assert named == {"baseline", "measured", "estimated", "healthy", "retrain"}
    assert [text.get_text() for text in axes.texts] == ["lighting drifts"]
    figure.savefig(io.BytesIO(), format="png")


def test_the_heat_map_has_the_most_drifted_feature_on_top() -> None:
    history = pd.DataFrame(
        {"at": [1.7e9, 1.7e9, 1.8e9, 1.8e9], "feature": ["std", "mean"] * 2, "psi": [0.0, 0.1, 0.02, 0.9]}
    )
    figure = drift_heat_map(history)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["mean", "std"]
    assert figure.axes[0].images[0].get_array().shape == (2, 2)
    figure.savefig(io.BytesIO(), format="png")
