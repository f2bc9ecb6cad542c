"""The check that a version would serve: what passes, and what each fault is called."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from labline.errors import BadInput
from labline.packaged_model import open_model
from serving.check import check, main


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The JSON object on the last line of standard output, read as strictly as other languages do."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    loaded: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=refuse)
    return loaded


def test_a_good_version_passes_and_its_answers_are_reported(
    version: Path, images: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(version), "--json"]) == 0

    seen = said(capsys)
    assert seen["ok"] is True
    assert seen["problems"] == []
    np.testing.assert_allclose(seen["answers"], open_model(version).predict(images[:2]), rtol=1e-6)
    assert 0 < seen["latency_ms_p50"] <= seen["latency_ms_p99"]
    assert seen["seconds_to_ready"] > 0


def test_a_person_is_told_in_a_line(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(version)]) == 0
    assert capsys.readouterr().out.startswith("fit to serve: p50")


@pytest.mark.parametrize("address", ["nothing-here", "models:/steel/Production"])
def test_where_there_is_no_version_the_command_line_is_wrong(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    version = address if address.startswith("models:") else str(tmp_path / address)

    assert main([version, "--json"]) == 2

    seen = said(capsys)
    assert seen["ok"] is False
    assert "was expected" in seen["problems"][0]
    assert seen["answers"] == []
    assert seen["latency_ms_p50"] is None
    with pytest.raises(BadInput):
        check(tmp_path / "nothing-here")


@pytest.mark.usefixtures("registry")
def test_a_registered_version_is_checked_by_its_address(
    versions: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("checked")
    client.create_model_version("checked", str(versions["fp32"]))

    assert main(["models:/checked/1", "--json"]) == 0
    assert said(capsys)["ok"] is True
    assert main(["models:/checked/2", "--json"]) == 2
    assert "not in the registry" in said(capsys)["problems"][0]


def lose_example(folder: Path) -> None:
    (folder / "input_example.json").unlink()


def write_example(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "input_example.json").write_text(content) and None


def of_value(value: float, shape: tuple[int, ...] = (2, 16, 16, 3)) -> str:
    return json.dumps(np.full(shape, value).tolist())


def truncate(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def corrupt_evaluation(folder: Path) -> None:
    (folder / "extra_files" / "evaluation.json").write_text("{")


def edit(change: Callable[[onnx.GraphProto], object]) -> Callable[[Path], None]:
    """Damage that changes the graph in a version's ONNX file."""

    def damage(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        change(model.graph)
        onnx.save(model, folder / "model.onnx")

    return damage


def overwrite_weights(value: float) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        for weights in graph.initializer:
            if weights.data_type == onnx.TensorProto.FLOAT:
                array = np.full(tuple(weights.dims), value, dtype=np.float32)
                weights.CopyFrom(numpy_helper.from_array(array, weights.name))

    return change


def answer_otherwise(operator: str, **attributes: int) -> Callable[[onnx.GraphProto], None]:
    """Probabilities that another operator than the softmax makes of the logits."""

    def change(graph: onnx.GraphProto) -> None:
        (softmax,) = [node for node in graph.node if node.op_type == "Softmax"]
        inputs = ["logits"]
        if operator == "Compress":
            graph.initializer.append(numpy_helper.from_array(np.array([True, True, False, True, True]), "kept"))
            inputs.append("kept")
        softmax.CopyFrom(helper.make_node(operator, inputs, ["probabilities"], **attributes))
        (declared,) = [output for output in graph.output if output.name == "probabilities"]
        declared.type.tensor_type.shape.dim[1].dim_param = "classes"  # left open: only an answer shows what it is

    return change


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncate, "model.onnx cannot be loaded"),
        (corrupt_evaluation, "labels cannot be read"),
        (lose_example, "input_example.json: no input example"),
        (write_example("[[["), "no input example"),
        (write_example("[[1, 2], [3]]"), "no input example"),
        (write_example('"text"'), "no input example"),
        (write_example("[]"), "images: uint8 N x 16 x 16 x 3, was expected, got uint8 0"),
        (write_example(of_value(1, (2, 8, 8, 3))), "was expected, got uint8 2 x 8 x 8 x 3"),
        (write_example(of_value(0.5)), "values that are not uint8"),
        (write_example(of_value(300)), "values that are not uint8"),
        (edit(overwrite_weights(float("nan"))), "logits of the input example are not finite"),
        (edit(overwrite_weights(float("inf"))), "not finite"),
        (edit(answer_otherwise("Sigmoid")), "no probabilities: they sum to 1 within"),
        (edit(answer_otherwise("Compress", axis=1)), "probabilities: float32 2 x 5, was expected, got float32 2 x 4"),
    ],
)
def test_a_version_that_would_not_serve_is_refused_with_the_reason(
    copied: Path, damage: Callable[[Path], None], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copied)

    assert main([str(copied), "--json"]) == 1

    seen = said(capsys)
    assert seen["ok"] is False
    assert problem in seen["problems"][0]


class Centred(nn.Module):
    """A network that looks at the whole batch: fine in a test of batches, wrong one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16 * 16 * 3, 64)  # what the signature says of the embedding
        self.last = nn.Linear(64, 5)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        features = self.first(images_NCHW.flatten(1))
        return self.last(features - features.mean(dim=0, keepdim=True))


def test_a_graph_that_mixes_the_samples_of_a_batch_is_refused(
    copied: Path, export_network: Callable[[nn.Module, Path], Path]
) -> None:
    torch.manual_seed(0)
    export_network(Centred(), copied / "model.onnx")

    (problem,) = check(copied, requests=1).problems

    assert "the graph mixes samples" in problem


def test_an_example_of_one_image_is_enough(copied: Path, images: np.ndarray) -> None:
    (copied / "input_example.json").write_text(json.dumps(images[:1].tolist()))

    seen = check(copied, requests=1)

    assert seen.ok
    assert np.shape(seen.answers) == (1, 5)


# --- forecasters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["gaussian", "quantile", "point", "classes"])
def test_a_good_forecaster_passes_and_its_forecasts_are_reported(
    forecasters: dict[str, Path], windows: np.ndarray, head: str
) -> None:
    seen = check(forecasters[head], requests=5)

    assert seen.problems == ()
    np.testing.assert_allclose(seen.answers, open_model(forecasters[head]).predict(windows[:2]), rtol=1e-6)


def after_the_forecast(operator: str, *more: str) -> Callable[[onnx.GraphProto], None]:
    """Damage by one more operation on the forecast."""

    def change(graph: onnx.GraphProto) -> None:
        (last,) = [node for node in graph.node if "forecast" in node.output]
        last.output[:] = ["forecast_before" if name == "forecast" else name for name in last.output]
        if "batch_mean" in more:
            graph.node.append(
                helper.make_node("ReduceMean", ["forecast_before", "batch_axis"], ["batch_mean"], keepdims=1)
            )
            graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch_axis"))
        graph.node.append(helper.make_node(operator, ["forecast_before", *more], ["forecast"]))

    return change


def lose_profile(folder: Path) -> None:
    (folder / "extra_files" / "baseline.json").unlink()


@pytest.mark.parametrize(
    ("head", "damage", "problem"),
    [
        ("gaussian", edit(overwrite_weights(float("nan"))), "forecast of the input example are not finite"),
        ("gaussian", edit(after_the_forecast("Neg")), "standard deviation of -"),
        ("quantile", edit(after_the_forecast("Neg")), "quantiles forecast for the input example cross"),
        (
            "point",
            edit(after_the_forecast("Sub", "batch_mean")),
            "asked alone and asked in a batch: the graph mixes samples",
        ),
        ("classes", edit(after_the_forecast("Sub", "batch_mean")), "the graph mixes samples"),
        ("point", lose_profile, "baseline.json: the standard deviation of the target cannot be read"),
        ("point", write_example("[[[1.0, 2.0, 3.0]]]"), "windows: float32 N x 12 x 3, was expected, got float32 1 x 1"),
        ("point", write_example(of_value(1e300, (1, 12, 3))), "no sample, or values that are not float32"),
    ],
)
def test_a_forecaster_that_would_not_serve_is_refused_with_the_reason(
    forecasters: dict[str, Path],
    tmp_path: Path,
    head: str,
    damage: Callable[[Path], None],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(forecasters[head], tmp_path / "version"))
    damage(folder)

    assert main([str(folder), "--json"]) == 1

    assert problem in said(capsys)["problems"][0]
