"""The training flow on real servers: what a run leaves behind, and what a second one reuses."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from small_runs import SMALL

from flows.training import training
from labline.data.dataset import open_dataset
from labline.data.storing import pixel_statistics
from labline.errors import RefusedByGate
from labline.export.onnx_runtime import onnx_outputs, session
from labline.export.tflite_runtime import MODULES, interpreter, tflite_logits
from labline.reference import open_reference
from tasks.environment import storage_root

STAGES = ["ingest", "validate", "clean", "augment", "train", "compress", "export", "evaluate", "register"]


@pytest.fixture(scope="module")
def trained(servers: dict[str, str]) -> dict[str, Any]:
    return training("surface", assignments=SMALL)


def test_the_summary_says_what_the_run_came_to(trained: dict[str, Any]) -> None:
    assert trained["usecase"] == "surface"
    assert [stage["name"] for stage in trained["stages"]] == STAGES
    assert {"test_accuracy", "test_roc_auc", "test_log_loss"} <= set(trained["metrics"])
    for candidate in trained["candidates"]:
        assert {"name", "metric", "bytes", "latency_ms_p50", "latency_ms_p99", "throughput"} <= set(candidate)
    assert trained["chosen"] in [candidate["name"] for candidate in trained["candidates"]]
    assert trained["parity"]["decision_agreement"] == 1
    assert trained["quarantined"] > 0, "blank frames and duplicates were planted"


def test_the_mlflow_run_shows_the_same_figures_and_the_evidence(trained: dict[str, Any]) -> None:
    client = MlflowClient()
    run = client.get_run(trained["run_id"])
    for name, value in trained["metrics"].items():
        assert run.data.metrics[name] == pytest.approx(value)
    assert run.data.params["training.epochs"] == "3"
    assert len(client.get_metric_history(trained["run_id"], "validation_accuracy")) == 3
    attached = {file.path for stage in STAGES for file in client.list_artifacts(trained["run_id"], stage)}
    assert {
        "validate/data_docs",
        "clean/quarantine.csv",
        "augment/contact_sheet.png",
        "train/learning_curves.png",
        "compress/pareto.png",
        "evaluate/confusion_matrix.png",
        "evaluate/reliability.png",
        "register/model_card.md",
    } <= attached
    assert run.inputs.dataset_inputs[0].dataset.name == "surface"


def test_the_version_carries_everything_and_answers_its_input_example(trained: dict[str, Any], tmp_path: Path) -> None:
    uri = f"models:/surface/{trained['version']}"
    version = MlflowClient().get_model_version("surface", trained["version"])
    assert version.current_stage == "None"
    assert version.run_id == trained["run_id"]
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    carried = {path.name for path in folder.rglob("*")}
    assert {
        "model.onnx",
        "fp32.onnx",
        "model.safetensors",
        "usecase.toml",
        "baseline.json",
        "evaluation.json",
        "reference.parquet",
        "model_card.md",
        "requirements.lock",
    } <= carried
    model = mlflow.pyfunc.load_model(uri)
    stored = model.input_example
    example = np.asarray(stored["images"] if isinstance(stored, dict) else stored, dtype=np.uint8)
    answered = model.predict({"images": example})
    (expected,) = session(folder / "model.onnx").run(["probabilities"], {"images": example})
    np.testing.assert_allclose(answered["probabilities"], expected, atol=1e-5)
    assert set(answered) == {"logits", "probabilities", "embedding"}


def test_the_version_carries_the_answers_it_was_judged_by(trained: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/surface/{trained['version']}", dst_path=str(tmp_path)))
    sample = open_reference(folder / "extra_files" / "reference.parquet")
    assert (sample.rows["answer"] == sample.rows["label"]).mean() == pytest.approx(trained["metrics"]["test_accuracy"])
    lineage = json.loads((folder / "extra_files" / "environment.json").read_text())
    data = open_dataset(storage_root() / lineage["dataset.directory"])
    stored = data.manifest.set_index("sample_id").loc[sample.rows["sample_id"]]
    images = data.images[stored["row"].to_numpy()]
    released = session(folder / "model.onnx")
    probabilities, embedding = onnx_outputs(released, images, ["probabilities", "embedding"])
    np.testing.assert_allclose(sample.outputs, probabilities, atol=1e-5)
    np.testing.assert_allclose(sample.embedding, embedding, rtol=2e-3, atol=1e-3)
    means, _ = pixel_statistics(images)
    np.testing.assert_array_equal(sample.rows["mean"], means)


def test_a_second_run_takes_everything_from_the_cache(trained: dict[str, Any]) -> None:
    again = training("surface", assignments=SMALL)
    assert all(stage["cached"] for stage in again["stages"])
    assert (again["version"], again["run_id"]) == (trained["version"], trained["run_id"])


def test_another_compression_runs_compression_and_what_follows(trained: dict[str, Any]) -> None:
    again = training("surface", assignments=[*SMALL, "compression.passes=[]"])
    ran = [stage["name"] for stage in again["stages"] if not stage["cached"]]
    assert ran == ["compress", "export", "evaluate", "register"] or ran == ["compress", "export", "register"]
    assert again["chosen"] == "fp32"
    assert int(again["version"]) == int(trained["version"]) + 1


def test_a_version_deleted_from_the_registry_is_registered_again(trained: dict[str, Any]) -> None:
    MlflowClient().delete_model_version("surface", trained["version"])
    again = training("surface", assignments=SMALL)
    (register,) = [stage for stage in again["stages"] if stage["name"] == "register"]
    assert not register["cached"]
    assert again["version"] != trained["version"]


def test_a_gate_refuses_and_nothing_is_registered(trained: dict[str, Any]) -> None:
    before = len(MlflowClient().search_model_versions("name = 'surface'"))
    with pytest.raises(RefusedByGate, match=r"accuracy is .* expected at least 1\.01"):
        training("surface", assignments=[*SMALL[:-1], "gates={accuracy={min=1.01}}"])
    assert len(MlflowClient().search_model_versions("name = 'surface'")) == before


@pytest.mark.skipif(any(find_spec(name) is None for name in MODULES), reason="labline[tflite] is not installed here")
def test_tensorflow_lite_is_measured_and_released_beside_onnx(trained: dict[str, Any], tmp_path: Path) -> None:
    both = training("surface", assignments=[*SMALL, 'export.formats=["onnx", "tflite"]'])

    assert {stage["name"] for stage in both["stages"] if not stage["cached"]} >= {"export", "register"}
    onnx, tflite = ([row for row in both["candidates"] if row["format"] == name] for name in ("onnx", "tflite"))
    assert [row["name"] for row in tflite] == ["fp32", "int8-static"]
    assert [row["name"] for row in onnx if row["chosen"]] == [both["chosen"]]
    assert [row["chosen"] for row in tflite].count(True) == 1
    assert both["parity"]["tflite_decision_agreement"] >= 0.999
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/surface/{both['version']}", dst_path=str(tmp_path)))
    (released,) = folder.rglob("model.tflite")
    assert tflite_logits(interpreter(released), np.zeros((1, 32, 32, 1), dtype=np.uint8)).shape[0] == 1
    assert list(folder.rglob("fp32.tflite"))
