"""The search: what it tries, and by which rule it chooses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.compression.search import LogitsFunction, Search, choose, search
from labline.errors import LablineError
from labline.models import ImageClassifier
from labline.usecase import Compression

COLUMNS = [
    "name",
    "format",
    "metric",
    "lost",
    "lost_in",
    "bytes",
    "latency_ms_p50",
    "latency_ms_p99",
    "throughput",
    "path",
    "within_budget",
    "chosen",
    "note",
]


@pytest.fixture
def searched(
    trained: ImageClassifier,
    stripes: Callable[[int, int], tuple[Any, Any]],
    finetune: Callable[[ImageClassifier], ImageClassifier],
    tmp_path: Path,
) -> Callable[[Compression], Search]:
    """Runs the search on the trained network."""
    images, targets = stripes(300, 4)

    def accuracy(logits: LogitsFunction) -> dict[str, float]:
        return {"accuracy": float((logits(images).argmax(axis=1) == targets).mean())}

    return lambda settings: search(
        trained, settings, 16, 1, stripes(64, 5)[0], accuracy, finetune, tmp_path, seconds=0.05
    )


def test_every_declared_pass_becomes_a_measured_candidate(searched: Callable[[Compression], Search]) -> None:
    found = searched(Compression(max_metric_drop=0.1))

    table = found.candidates
    assert sorted(table.columns) == sorted(COLUMNS)
    assert list(table["name"]) == ["fp32", "pruned", "int8-static", "pruned+int8"]
    assert (table[["bytes", "latency_ms_p50", "latency_ms_p99", "throughput"]] > 0).all(axis=None)
    assert (table["metric"] > 0.9).all()
    assert all(path.is_file() for path in table["path"])
    size = table.set_index("name")["bytes"]
    assert size["pruned+int8"] < size["pruned"] < size["fp32"]
    assert list(table.loc[table["chosen"], "name"]) == [found.chosen]
    assert found.chosen in found.reason


def test_the_budget_holds_for_every_metric_not_only_the_declared_one(
    trained: ImageClassifier,
    stripes: Callable[[int, int], tuple[Any, Any]],
    tmp_path: Path,
) -> None:
    """A rank metric may stay while decisions move: here the second metric says so of everything but fp32."""
    seen = iter([0.9, 0.5])

    found = search(
        trained,
        Compression(passes=["int8-static"]),
        16,
        1,
        stripes(64, 5)[0],
        evaluate=lambda logits: {"roc_auc": 0.99, "accuracy": next(seen)},
        finetune=lambda model: model,
        directory=tmp_path,
        seconds=0.05,
    )

    assert found.chosen == "fp32"
    assert "int8-static loses 0.4000 of accuracy" in found.reason


def test_a_pass_that_fails_becomes_a_note(
    searched: Callable[[Compression], Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> ImageClassifier:
        raise LablineError("Net cannot be pruned: layer 7 is too exotic.")

    monkeypatch.setattr("labline.compression.search.prune", refuses)

    found = searched(Compression(passes=["prune"]))

    failed = found.candidates.set_index("name").loc["pruned"]
    assert failed["note"] == "failed: Net cannot be pruned: layer 7 is too exotic."
    assert np.isnan(failed["metric"])
    assert found.chosen == "fp32"
    assert "too exotic" in found.reason


UNUSED = {"note": "", "path": None, "latency_ms_p99": 3.0}
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
