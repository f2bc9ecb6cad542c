"""TensorFlow Lite: float and int8 compete with each other by the rule that ONNX files do."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from labline.compression.candidates import LogitsFunction, Quality
from labline.compression.pruning import prune
from labline.compression.tflite import choose_tflite, search_tflite
from labline.export.tflite_runtime import MODULES, interpreter, tflite_logits
from labline.models import ImageClassifier
from labline.usecase import Compression

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in MODULES), reason="the extra labline[tflite] is not installed here"
)


def test_float_and_int8_compete_and_int8_keeps_its_decisions(
    trained: ImageClassifier, stripes: Callable[[int, int], tuple[Any, Any]], tmp_path: Path
) -> None:
    images, targets = stripes(300, 4)
    calibration = stripes(64, 5)[0]

    def accuracy(logits: LogitsFunction) -> Quality:
        return Quality({"accuracy": float((logits(images).argmax(axis=1) == targets).mean())})

    def judged(path: Path) -> Quality:
        return accuracy(lambda images: tflite_logits(interpreter(path), images))

    settings = Compression(passes=["int8-static", "prune"], max_metric_drop=0.02)
    smaller = {"pruned-40": prune(trained, 0.4, torch.from_numpy(calibration))}
    found = search_tflite(trained, settings, 16, 1, calibration, accuracy, tmp_path, seconds=0.05, smaller=smaller)
    alone = choose_tflite(tmp_path / "fp32.tflite", {}, judged, calibration, settings, seconds=0.05)

    table = found.candidates.set_index("name")
    assert list(table.index) == ["fp32", "int8-static", "pruned-40", "pruned-40+int8"]
    assert set(table["format"]) == {"tflite"}
    assert (table[["bytes", "latency_ms_p50", "latency_ms_p99", "throughput"]] > 0).all(axis=None)
    assert table.loc["int8-static", "bytes"] < table.loc["fp32", "bytes"]
    assert table.loc["pruned-40+int8", "bytes"] < table.loc["pruned-40", "bytes"] < table.loc["fp32", "bytes"]
    assert table.loc["int8-static", "within_budget"]
    assert found.chosen.endswith(("int8", "int8-static")) or table.loc["int8-static", "note"]
    assert (list(alone.candidates["name"]), alone.chosen) == (["fp32"], "fp32")
