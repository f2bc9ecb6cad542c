"""`labline reproduce`: a version is trained again from what it holds, and says whether the same came out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image
from small_runs import SMALL

from flows.reproduction import reproduce, show_reproduction
from flows.training import training
from labline.errors import BadInput

pytestmark = pytest.mark.usefixtures("servers")


@pytest.fixture(scope="module")
def surface(servers: dict[str, str]) -> str:
    """A registered version of surface."""
    trained = training("surface", assignments=[*SMALL, "training.epochs=2", "compression.finetune_epochs=1"])
    return str(trained["version"])


def checks(summary: dict[str, Any]) -> dict[str, bool]:
    return {check["check"]: check["same"] for check in summary["checks"]}


def test_a_version_leads_back_to_what_it_was_made_of(surface: str, tmp_path: Path) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/surface/{surface}", dst_path=str(tmp_path)))
    tags = MlflowClient().get_model_version("surface", surface).tags
    lineage = json.loads((folder / "extra_files" / "environment.json").read_text())
    assert {name: lineage[name] for name in tags if name in lineage} == {
        name: tags[name]
        for name in (
            "dataset.digest", "dataset.directory", "code.commit", "lock.sha256", "weights.sha256", "onnx.sha256",
            "chosen.sha256", "compression.chosen", "parent.version", "reason",
        )
    }  # fmt: skip
    rows = pd.read_parquet(folder / "extra_files" / "manifest.parquet")
    assert list(rows.columns) == ["sample_id", "split", "label", "sha256"]
    assert set(rows["split"]) == {"train", "validation", "test"}
    assert (folder / "extra_files" / "model_card.html").read_text().startswith("<!doctype html>")


def test_the_next_version_names_the_one_in_production_as_its_parent(surface: str) -> None:
    MlflowClient().set_registered_model_alias("surface", "production", surface)
    following = training("surface", assignments=[*SMALL, "training.epochs=2", "compression.passes=[]"])
    MlflowClient().delete_registered_model_alias("surface", "production")
    assert MlflowClient().get_model_version("surface", following["version"]).tags["parent.version"] == surface


def test_a_version_is_reproduced_bit_for_bit(surface: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    show_reproduction(f"models:/surface/{surface}", keep=kept, json=True)
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert summary["version"] == f"models:/surface/{surface}"
    assert summary["reproduced"]
    assert {"dataset", "weights", "fp32 ONNX", "test accuracy"} <= set(checks(summary))
    tags = MlflowClient().get_model_version("surface", surface).tags
    assert summary["checks"][2]["reproduced"] == tags["onnx.sha256"]
    assert (kept / "store" / "stages" / "train").is_dir()


def test_other_data_are_reported(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = training(str(parts))["version"]
    Image.new("L", (24, 24), 200).save(parts.parent / "parts" / "bright" / "000.png")
    with pytest.raises(SystemExit) as ended:
        show_reproduction(f"models:/parts/{version}", keep=None, json=True)
    assert ended.value.code == 1
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert not summary["reproduced"]
    assert not checks(summary)["dataset"]


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("surface", r"expected models:/NAME/N or models:/NAME@ALIAS"),
        ("models:/surfaces/1", r"no model 'surfaces'.*did you mean 'surface'"),
        ("models:/surface/999", r"surface has no version 999; valid names: 1"),
        ("models:/surface@producton", r"no version with the alias 'producton'"),
    ],
)
def test_what_is_no_version_is_refused(surface: str, version: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        reproduce(version)


def test_a_version_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    experiment = mlflow.create_experiment("foreign", artifact_location=str(tmp_path / "artifacts"))
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_artifact(str(tmp_path / "model.bin"), "model")
    MlflowClient().create_registered_model("foreign")
    MlflowClient().create_model_version("foreign", f"{run.info.artifact_uri}/model", run.info.run_id)
    with pytest.raises(BadInput, match=r"models:/foreign/1 holds no usecase\.toml"):
        reproduce("models:/foreign/1")


def test_an_own_module_that_is_not_here_is_asked_for(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net_of_parts.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, channels, classes, image_size):\n"
        "        super().__init__(nn.AvgPool2d(image_size), nn.Flatten(), nn.Linear(channels, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    trained = training(str(parts), assignments=['model.architecture="net_of_parts:Net"', "training.epochs=1"])
    monkeypatch.undo()
    (tmp_path / "net_of_parts.py").unlink()
    del sys.modules["net_of_parts"]
    with pytest.raises(BadInput, match=r"net_of_parts:Net, your own module.*PYTHONPATH"):
        reproduce(f"models:/parts/{trained['version']}")


def test_data_that_are_not_there_are_asked_for(parts: Path) -> None:
    version = training(str(parts), assignments=["training.epochs=1"])["version"]
    (parts.parent / "parts").rename(parts.parent / "moved")
    with pytest.raises(BadInput, match=r"data\.path = .*parts.*nothing is there"):
        reproduce(f"models:/parts/{version}")


def test_ctrl_c_ends_the_training_and_leaves_nothing(surface: str, tmp_path: Path) -> None:
    script = f"from flows.reproduction import show_reproduction as show; show('models:/surface/{surface}', None, True)"
    reproducing = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"TMPDIR": str(tmp_path)})
    while not list(tmp_path.glob("labline-reproduce-*/store/prefect")):
        assert reproducing.poll() is None
        time.sleep(0.1)
    reproducing.send_signal(signal.SIGINT)
    assert reproducing.wait(timeout=60) == 130
    assert not list(tmp_path.glob("labline-reproduce-*"))


def test_a_folder_to_keep_must_be_empty(surface: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not empty"):
        reproduce(f"models:/surface/{surface}", keep=tmp_path)
