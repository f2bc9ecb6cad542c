"""The choice: by which rule one of the measured candidates is released."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.compression.choice import choose, pareto_front
from labline.usecase import Compression

UNUSED = {"note": "", "lost_error": 0.0, "path": None, "latency_ms_p99": 3.0}
FP32 = {"name": "fp32", "metric": 0.95, "bytes": 400, "latency_ms_p50": 2.0, "throughput": 500.0}
BETTER = {"name": "int8-static", "metric": 0.949, "bytes": 100, "latency_ms_p50": 1.0, "throughput": 1000.0}


def table(*changes: dict[str, object]) -> pd.DataFrame:
    """Measured candidates: fp32, and one that is better in everything but for the changes named."""
    rows = [FP32, *(BETTER | change for change in changes)]
    return pd.DataFrame([{"within_budget": True, "lost": 0.001, "lost_in": "accuracy", **UNUSED} | row for row in rows])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"within_budget": False, "lost": 0.02, "lost_in": "accuracy"}, "loses 0.0200 of accuracy, budget 0.005"),
        (
            {"within_budget": False, "lost": 0.004, "lost_error": 0.002},
            "loses 0.0040 (± 0.0020) of accuracy, budget 0.005",
        ),
        ({"latency_ms_p50": 2.1}, "is slower for one image: 2.1 ms against 2 ms"),
        ({"throughput": 400.0}, "is slower in batches: 400 images/s against 500"),
        ({"latency_ms_p50": 1.98}, "gains too little: latency_ms_p50 1.98 against 2"),
        ({"note": "failed: no"}, "failed: no"),
    ],
)
def test_fp32_is_kept_and_the_reason_is_said(change: dict[str, object], reason: str) -> None:
    found = choose(table(change), Compression())

    assert found.chosen == "fp32"
    assert found.reason == f"fp32 is kept: int8-static {reason}."
    assert list(found.candidates["note"]) == ["", reason]


@pytest.mark.parametrize(
    ("objective", "winner"), [("latency", "quick"), ("throughput", "bulk"), ("size", "int8-static")]
)
def test_the_objective_decides_among_those_that_qualify(objective: str, winner: str) -> None:
    candidates = table(
        {},
        {"name": "quick", "latency_ms_p50": 0.5, "bytes": 300},
        {"name": "bulk", "throughput": 2000.0, "bytes": 300},
        {"name": "wrong", "latency_ms_p50": 0.1, "throughput": 9000.0, "bytes": 1, "within_budget": False},
    )

    found = choose(candidates, Compression.model_validate({"objective": objective}))

    assert found.chosen == winner
    assert found.reason.startswith(f"{winner} is chosen")


def test_without_passes_fp32_is_all_there_is() -> None:
    assert choose(table(), Compression(passes=[])).reason == "fp32 is kept: no compression pass is declared."


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "latency_ms_p50": st.floats(0.1, 10),
                "throughput": st.floats(1, 2000),
                "bytes": st.integers(1, 1000),
                "within_budget": st.booleans(),
            }
        ),
        max_size=4,
    ),
    st.sampled_from(["latency", "throughput", "size"]),
)
def test_the_chosen_one_is_never_slower_nor_outside_the_budget(
    changes: list[dict[str, object]], objective: str
) -> None:
    candidates = table(*({"name": f"candidate {i}"} | change for i, change in enumerate(changes)))

    found = choose(candidates, Compression.model_validate({"objective": objective}))

    chosen = found.candidates.set_index("name").loc[found.chosen]
    assert chosen["chosen"] and chosen["within_budget"]
    assert chosen["latency_ms_p50"] <= FP32["latency_ms_p50"]
    assert chosen["throughput"] >= FP32["throughput"]


@given(
    st.lists(st.fixed_dictionaries({"bytes": st.integers(1, 1000), "latency_ms_p99": st.floats(0.1, 10)}), max_size=4),
    st.integers(1, 1000),
    st.floats(0.1, 10),
)
def test_declared_sizes_and_latencies_are_kept_by_any_candidate_that_can_be_chosen(
    changes: list[dict[str, object]], max_bytes: int, slowest: float
) -> None:
    candidates = table(*({"name": f"candidate {i}"} | change for i, change in enumerate(changes)))

    found = choose(candidates, Compression(max_bytes=max_bytes, max_latency_ms_p99=slowest))

    fits = (candidates["bytes"] <= max_bytes) & (candidates["latency_ms_p99"] <= slowest)
    assert fits[found.candidates["chosen"]].all() or not fits.any()


def test_where_fp32_is_too_large_a_slower_model_that_fits_is_better_than_it() -> None:
    slower = table({"latency_ms_p50": 5.0})

    assert choose(slower, Compression(max_bytes=200)).chosen == "int8-static"
    assert choose(slower, Compression(max_bytes=50)).reason == (
        "fp32 is kept, though it has 400 bytes, at most 50 are declared: "
        "int8-static has 100 bytes, at most 50 are declared."
    )


COSTS = st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4))


@given(st.lists(COSTS, min_size=1, max_size=8))
def test_the_front_has_what_no_other_beats(costs: list[tuple[int, int, int]]) -> None:
    candidates = pd.DataFrame(costs, columns=["lost", "latency_ms_p50", "bytes"])

    front = pareto_front(candidates)

    assert any(front)
    for mine, kept in zip(costs, front, strict=True):
        beaten = any(other != mine and all(o <= m for o, m in zip(other, mine, strict=True)) for other in costs)
        assert kept is not beaten


def test_what_has_no_figures_is_on_no_front() -> None:
    unknown = {"lost": np.nan, "latency_ms_p50": np.nan, "bytes": np.nan}
    assert pareto_front(pd.DataFrame([{"lost": 0.0, "latency_ms_p50": 1.0, "bytes": 1.0}, unknown])) == [True, False]
