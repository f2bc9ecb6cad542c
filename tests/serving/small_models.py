"""Loaded models of a few nodes, for tests of what comes before a model: real sessions, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from labline.export.onnx_runtime import session
from labline.packaged_model import PackagedModel, TensorSpec

LABELS = ("dark", "bright")


def image_model(folder: Path, size: int = 48, channels: int = 1) -> PackagedModel:
    """Tells bright images from dark ones."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Unsqueeze", ["means", "last"], ["column"]),
        helper.make_node("Sub", ["column", "grey"], ["brightness"]),
        helper.make_node("Mul", ["brightness", "signs"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    constants = {
        "axes": np.array([1, 2, 3]),
        "last": np.array([1]),
        "grey": np.array(127.5, np.float32),
        "signs": np.array([[-0.05, 0.05]], np.float32),
    }
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, channels])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("logits", "probabilities")]
    path = _save(folder, nodes, inputs, outputs, constants)
    given = TensorSpec("images", "uint8", (None, size, size, channels))
    answers = tuple(TensorSpec(name, "float32", (None, 2)) for name in ("logits", "probabilities"))
    return PackagedModel(folder, session(path), "image", given, answers, LABELS, "classes")


def series_model(folder: Path, usecase: str, window: int, features: int) -> PackagedModel:
    """Forecasts the mean of the window; `usecase` is the text of its declaration."""
    nodes = [helper.make_node("ReduceMean", ["windows", "axes"], ["means"], keepdims=1)]
    nodes.append(helper.make_node("Squeeze", ["means", "last"], ["forecast"]))
    constants = {"axes": np.array([1, 2]), "last": np.array([2])}
    inputs = [helper.make_tensor_value_info("windows", TensorProto.FLOAT, ["N", window, features])]
    outputs = [helper.make_tensor_value_info("forecast", TensorProto.FLOAT, ["N", 1])]
    path = _save(folder, nodes, inputs, outputs, constants)
    (folder / "extra_files").mkdir()
    (folder / "extra_files" / "usecase.toml").write_text(usecase)
    given = TensorSpec("windows", "float32", (None, window, features))
    return PackagedModel(
        folder, session(path), "series", given, (TensorSpec("forecast", "float32", (None, 1)),), (), "point"
    )


def _save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> Path:
    initializers = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializers)
    folder.mkdir(parents=True, exist_ok=True)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "model.onnx")
    return folder / "model.onnx"
