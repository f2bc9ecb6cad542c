"""The INT8 versions of a network: the costly ones only where the cheap ones lose too much."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from labline.compression.candidates import Tried
from labline.compression.conditions import Conditions
from labline.compression.int8 import int8_versions
from labline.compression.quantization import layers
from labline.compression.sensitivity import sensitivities
from labline.export.onnx import export_onnx
from labline.models import ImageClassifier
from labline.usecase import Compression

Prepared = Callable[[Compression], tuple[Conditions, Tried]]


def test_where_the_first_calibration_fits_nothing_else_is_tried(trained: ImageClassifier, conditions: Prepared) -> None:
    shared, float32 = conditions(Compression(max_metric_drop=0.05))

    assert [tried.name for tried in int8_versions(float32, trained, shared)] == ["int8-static"]


def test_the_most_sensitive_layers_stay_in_float32_until_the_rest_fits(
    outlier: ImageClassifier, conditions: Prepared
) -> None:
    """A channel a thousand times larger than the others is written by one layer and read by the next."""
    shared, _ = conditions(Compression(max_metric_drop=0.02, calibrations=["minmax"]))
    path = export_onnx(outlier, shared.directory / "outlier.onnx", 16, 1)
    around = layers(path)[1:3]

    ranked = list(sensitivities(path, shared.samples))
    static, mixed = int8_versions(Tried("fp32", path, shared.judged(path)), outlier, shared)

    assert set(ranked[:2]) == set(around)
    assert not shared.fits(static)
    assert shared.fits(mixed)
    assert mixed.path is not None and static.path is not None
    assert quantized(mixed) == [name for name in quantized(static) if name not in around]


def quantized(tried: Tried) -> list[str]:
    """The layers of the file whose weights are integers."""
    graph = onnx.load(str(tried.path)).graph
    kinds = {output: node.op_type for node in graph.node for output in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    return [layer.name for layer in layers if kinds.get(layer.input[1]) == "DequantizeLinear"]
