"""Gates hold figures against declared limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labline.gates import judge
from labline.usecase import Gate


def test_a_floor_and_a_ceiling() -> None:
    gates = {"accuracy": Gate(min=0.9), "latency_ms_p99": Gate(max=5)}
    accuracy, latency = judge(gates, {"accuracy": 0.95, "latency_ms_p99": 7.0})
    assert accuracy.passed
    assert not latency.passed
    assert latency.limit == "at most 5"


def test_a_missing_figure_never_passes() -> None:
    assert not judge({"roc_auc": Gate(min=0.0)}, {})[0].passed
    assert not judge({"roc_auc": Gate(max=1.0)}, {"roc_auc": float("nan")})[0].passed


@given(low=st.floats(0, 1), high=st.floats(0, 1), figure=st.floats(0, 1))
def test_a_gate_passes_exactly_within_its_limits(low: float, high: float, figure: float) -> None:
    assert judge({"accuracy": Gate(min=low, max=high)}, {"accuracy": figure})[0].passed == (low <= figure <= high)
