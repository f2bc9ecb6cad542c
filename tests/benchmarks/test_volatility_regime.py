"""The regime benchmark's own parts: what is known when, and what months come to."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.volatility_regime import Asked, records, summarised
from labline.feedback import Label, Prediction

DAYS = [
    Asked(at=day, known_at=day + 5, features={"log-return(close)": 0.01}, outputs=(-2.0, 0.3), truth=-1.5)
    for day in range(10)
]


def test_truth_is_told_when_it_is_known_and_never_before() -> None:
    first, second = records(DAYS, "1", 0, 7), records(DAYS, "1", 7, 20)
    assert [record.at for record in first if isinstance(record, Prediction)] == list(range(7))
    assert [record.at for record in first if isinstance(record, Label)] == [5, 6]
    told = [record for record in (*first, *second) if isinstance(record, Label)]
    asked = [record for record in (*first, *second) if isinstance(record, Prediction)]
    assert [label.prediction for label in told] == [prediction.id for prediction in asked]
    assert {label.label for label in told} == {"-1.5"} and {prediction.answer for prediction in asked} == {"-2.0"}


def test_the_first_month_of_each_verdict_is_named() -> None:
    months = pd.DataFrame(
        {
            "month": ["2007-01", "2007-02", "2007-03"],
            "value": [0.4, 0.5, 1.2],
            "reference": 0.4,
            "verdict": ["healthy", "watch", "watch"],
            "inputs": None,
        }
    )
    result = summarised(months)
    assert result["ratio"] == pytest.approx(3)
    assert (result["ours"]["first_watch"], result["ours"]["first_retrain"]) == ("2007-02", None)
    assert result["ours"]["verdicts"] == {"watch": 2, "healthy": 1}
