"""The baseline: a reference profile that later windows are compared with."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from labline.baseline import baseline
from labline.evaluation import evaluate

LABELS = ("good", "scratched")


def profile(samples: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    targets = generator.integers(2, size=samples)
    confidence = generator.uniform(0.5, 1, samples)
    probabilities = np.where(targets[:, None] == [0, 1], confidence[:, None], 1 - confidence[:, None])
    rows = pd.DataFrame(
        {
            "source": "strip.zip",
            "width": 200,
            "height": 200,
            "bytes": generator.integers(1_000, 2_000, samples),
            "mean": generator.normal(120, 20, samples),
            "std": generator.normal(30, 5, samples),
        }
    )
    return baseline(rows, probabilities, evaluate(probabilities, targets, LABELS, rows, bootstrap=50))


@pytest.mark.parametrize("samples", [1, 7, 500])
def test_every_sample_is_counted_in_every_histogram(samples: int) -> None:
    found = profile(samples)
    for histogram in [*found["inputs"].values(), found["confidences"]]:
        assert sum(histogram["counts"]) == samples
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1
        assert histogram["edges"] == sorted(histogram["edges"])
    assert sum(found["predictions"].values()) == samples


def test_input_bins_hold_a_tenth_each() -> None:
    assert profile(500)["inputs"]["mean"]["counts"] == [50] * 10


def test_a_constant_statistic_has_one_bin() -> None:
    width = profile(500)["inputs"]["width"]
    assert (width["edges"], width["counts"]) == ([200, 200], [500])


def test_it_is_strict_json_also_where_figures_are_undefined() -> None:
    found = json.loads(json.dumps(profile(1), allow_nan=False))
    assert found["quality"]["roc_auc"] == {"value": None, "low": None, "high": None}


def test_quality_comes_with_intervals() -> None:
    found = profile(500)
    accuracy = found["quality"]["accuracy"]
    assert accuracy["value"] == accuracy["high"] == 1.0
    assert 0.99 < accuracy["low"] < 1.0, "five hundred faultless samples do not prove a faultless model"
    assert [row["label"] for row in found["per_class"]] == list(LABELS)
    assert {"recall", "recall_low", "recall_high"} <= set(found["per_class"][0])
