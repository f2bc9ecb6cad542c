"""The search: what it tries, composes and leaves out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labline.compression.candidates import Evaluate, Quality
from labline.compression.choice import Search
from labline.compression.conditions import Finetune, Teach
from labline.compression.search import search
from labline.errors import LablineError
from labline.export.onnx_runtime import onnx_logits, session
from labline.models import ImageClassifier
from labline.usecase import Compression

Stripes = Callable[[int, int], tuple[Any, Any]]
Judge = Callable[[tuple[Any, Any]], Evaluate]
COLUMNS = [
    "name",
    "format",
    "metric",
    "lost",
    "lost_error",
    "lost_in",
    "bytes",
    "latency_ms_p50",
    "latency_ms_p99",
    "throughput",
    "path",
    "within_budget",
    "pareto",
    "chosen",
    "note",
]


@pytest.fixture
def searched(
    trained: ImageClassifier, stripes: Stripes, judge: Judge, finetune: Finetune, teach: Teach, tmp_path: Path
) -> Callable[..., Search]:
    """Runs the search on the trained network, or on another one."""

    def run(settings: Compression, model: ImageClassifier = trained) -> Search:
        evaluate, calibration = judge(stripes(300, 4)), stripes(64, 5)[0]
        return search(model, settings, 16, 1, calibration, evaluate, finetune, teach, tmp_path, seconds=0.05)

    return run


def test_every_declared_pass_becomes_a_measured_candidate_and_they_compose(searched: Callable[..., Search]) -> None:
    passes = ["int8-static", "int8-dynamic", "prune", "distil"]
    found = searched(Compression.model_validate({"passes": passes, "prune_ratios": [0.4], "max_metric_drop": 0.1}))

    table = found.candidates
    assert sorted(table.columns) == sorted(COLUMNS)
    assert list(table["name"]) == [
        "fp32", "int8-dynamic", "int8-static", "pruned-40", "pruned-40+int8", "student-50", "student-50+int8"
    ]  # fmt: skip
    assert (table[["bytes", "latency_ms_p50", "latency_ms_p99", "throughput"]] > 0).all(axis=None)
    assert all(path.is_file() for path in table["path"])
    size = table.set_index("name")["bytes"]
    assert size["pruned-40+int8"] < size["pruned-40"] < size["fp32"]
    assert size["student-50+int8"] < size["student-50"] < size["fp32"]
    assert list(table.loc[table["chosen"], "name"]) == [found.chosen]
    assert found.chosen in found.reason


def test_the_budget_holds_for_every_metric_not_only_the_declared_one(
    trained: ImageClassifier, stripes: Stripes, finetune: Finetune, teach: Teach, tmp_path: Path
) -> None:
    """A rank metric may stay while decisions move: here the second metric says so of everything but fp32."""
    seen = iter([0.9, 0.5])

    found = search(
        trained,
        Compression(passes=["int8-static"], calibrations=["minmax"], float_layers=0),
        16,
        1,
        stripes(64, 5)[0],
        evaluate=lambda logits: Quality({"roc_auc": 0.99, "accuracy": next(seen)}),
        finetune=finetune,
        teach=teach,
        directory=tmp_path,
        seconds=0.05,
    )

    assert found.chosen == "fp32"
    assert "int8-static loses 0.4000 of accuracy" in found.reason


def test_a_pass_that_fails_becomes_a_note_and_is_not_tried_at_other_sizes(
    searched: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> ImageClassifier:
        raise LablineError("Net cannot be pruned: layer 7 is too exotic.")

    monkeypatch.setattr("labline.compression.search.prune", refuses)

    found = searched(Compression(passes=["prune"]))

    assert list(found.candidates["name"]) == ["fp32", "pruned-50"]
    failed = found.candidates.set_index("name").loc["pruned-50"]
    assert failed["note"] == "failed: Net cannot be pruned: layer 7 is too exotic."
    assert np.isnan(failed["metric"])
    assert found.chosen == "fp32"
    assert "too exotic" in found.reason


def test_what_static_quantization_ruins_is_repaired_by_training(
    searched: Callable[..., Search], outlier: ImageClassifier, stripes: Stripes
) -> None:
    settings = Compression(passes=["int8-static", "int8-aware"], float_layers=0, max_metric_drop=0.02)

    found = searched(settings, outlier)

    table = found.candidates.set_index("name")
    assert list(table.index) == ["fp32", "int8-static", "int8-static-percentile", "int8-static-entropy", "int8-aware"]
    assert table.loc["int8-static", "metric"] < 0.6
    assert table.loc["int8-aware", "within_budget"]
    images, targets = stripes(300, 6)
    logits = onnx_logits(session(table.loc["int8-aware", "path"]), images)
    assert (logits.argmax(axis=1) == targets).mean() > 0.95


def test_no_training_begins_after_the_declared_minutes(searched: Callable[..., Search]) -> None:
    found = searched(Compression(passes=["prune", "distil"], prune_ratios=[0.3, 0.5], minutes=0))

    notes = found.candidates.set_index("name")["note"]
    assert list(notes.index) == ["fp32", "pruned-30", "pruned-50", "student-50"]
    assert (notes.iloc[1:] == "not tried: the 0 minutes of compression.minutes are over").all()
