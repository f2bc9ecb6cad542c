"""Gates hold figures against declared limits, and a challenger against its champion."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.comparison import Comparison
from labline.gates import Judgement, judge, judge_comparison
from labline.usecase import Gate, Promotion


def test_a_floor_and_a_ceiling() -> None:
    gates = {"accuracy": Gate(min=0.9), "latency_ms_p99": Gate(max=5)}
    accuracy, latency = judge(gates, {"accuracy": 0.95, "latency_ms_p99": 7.0})
    assert accuracy.passed
    assert not latency.passed
    assert latency.limit == "at most 5"


def test_a_missing_figure_never_passes() -> None:
    assert not judge({"roc_auc": Gate(min=0.0)}, {})[0].passed
    assert not judge({"roc_auc": Gate(max=1.0)}, {"roc_auc": float("nan")})[0].passed
    assert not judge({"roc_auc": Gate(low=0.0)}, {}, {"roc_auc": (0.9, 1.0)})[0].passed


@given(low=st.floats(0, 1), high=st.floats(0, 1), figure=st.floats(0, 1))
def test_a_gate_passes_exactly_within_its_limits(low: float, high: float, figure: float) -> None:
    assert judge({"accuracy": Gate(min=low, max=high)}, {"accuracy": figure})[0].passed == (low <= figure <= high)


def test_the_lower_end_of_the_interval_is_held_against_low() -> None:
    gates = {"accuracy": Gate(min=0.98, low=0.96)}
    (sure,) = judge(gates, {"accuracy": 0.985}, {"accuracy": (0.97, 0.99)})
    assert sure == Judgement("accuracy", 0.985, "at least 0.98, interval from 0.96", True, "95 % interval 0.97 to 0.99")
    assert not judge(gates, {"accuracy": 0.985}, {"accuracy": (0.95, 1.0)})[0].passed  # too few samples to be sure
    assert not judge(gates, {"accuracy": 0.975}, {"accuracy": (0.97, 0.98)})[0].passed


def test_a_missing_interval_never_passes_low() -> None:
    gates = {"accuracy": Gate(low=0.1)}
    for intervals in (None, {}, {"accuracy": (float("nan"), float("nan"))}):
        (judgement,) = judge(gates, {"accuracy": 1.0}, intervals)
        assert not judgement.passed
        assert judgement.limit == "interval from 0.1"
        assert judgement.note == "no interval"


GROUPS = [
    ("class", "crazing", 50, 0.96, 0.92),
    ("class", "scratches", 19, 1.0, 0.0),  # too few to judge
    ("brightness", "0 to 99", 60, 0.9, 0.95),
    ("source", "line 2", 40, 0.9, 0.8),
    ("corruption", "noise", 100, 0.7, 0.8),
]


def comparison(low: float = -0.004, groups: list[tuple[str, str, int, float, float]] = GROUPS) -> Comparison:
    table = pd.DataFrame(groups, columns=["kind", "value", "support", "champion", "challenger"])
    table["difference"] = (table["challenger"] - table["champion"]).round(12)
    return Comparison(
        samples=100, metric="accuracy", champion=0.95, challenger=0.96, difference=0.01, low=low, high=0.03,
        confidence=0.95, gained=3, lost=2, mcnemar_p=1.0, groups=table,
    )  # fmt: skip


def test_a_challenger_is_held_against_the_champion_overall_and_where_it_loses_most() -> None:
    overall, worst_class, worst_slice, worst_corruption = judge_comparison(comparison(), Promotion(), "version 3")
    assert (overall.gate, overall.figure) == ("accuracy against version 3", -0.004)
    assert overall.limit == "difference at least -0.01 (95 % sure)"
    assert overall.passed
    assert "0.96 against 0.95 on 100 samples; alone right on 3, version 3 on 2 (McNemar p = 1)" in overall.note
    assert "not judged, under 20 samples: class scratches" in overall.note
    assert worst_class.gate == "worst class: crazing"
    assert worst_class.limit == "no class more than 0.05 worse"
    assert worst_class.note == "0.92 against 0.96 of version 3 on 50 samples"
    assert worst_class.passed
    assert worst_slice.gate == "worst slice: source line 2"
    assert worst_slice.figure == -0.1
    assert not worst_slice.passed
    assert worst_corruption.gate == "worst corruption: noise"
    assert worst_corruption.passed


def test_smaller_groups_are_judged_where_the_declaration_says_so() -> None:
    overall, worst_class, *_ = judge_comparison(comparison(), Promotion(smallest_slice=19), "version 3")
    assert "not judged" not in overall.note
    assert worst_class.gate == "worst class: scratches"
    assert not worst_class.passed


def test_without_a_group_large_enough_only_the_whole_is_judged() -> None:
    (overall,) = judge_comparison(comparison(), Promotion(smallest_slice=1000), "version 3")
    assert "class crazing, class scratches, brightness 0 to 99 and 2 more" in overall.note


@given(low=st.floats(-1, 1), margin=st.floats(0, 1))
def test_non_inferiority_is_the_bound_against_the_margin(low: float, margin: float) -> None:
    overall, *_ = judge_comparison(comparison(low), Promotion(margin=margin), "version 3")
    assert overall.passed == (low >= -margin)


def test_an_unknown_difference_never_passes() -> None:
    assert not judge_comparison(comparison(float("nan")), Promotion(margin=1.0), "version 3")[0].passed


def test_one_sample_in_twenty_is_exactly_the_margin() -> None:
    (_, worst) = judge_comparison(comparison(groups=[("class", "a", 20, 1.0, 0.95)]), Promotion(), "version 3")
    assert worst.passed


def test_a_comparison_of_another_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"confidence 0\.95, declared 0\.99"):
        judge_comparison(comparison(), Promotion(confidence=0.99), "version 3")
