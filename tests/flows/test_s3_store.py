"""Two machines on one bucket: refused in the middle, killed in training, gone on with elsewhere, and nothing twice."""

from __future__ import annotations

import contextlib
import io
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from object_storage import SECRET, Server, running_object_storage
from small_runs import Ended, command, embedded

from labline.errors import LablineError
from serving.fetching import fetch

SETTINGS = [
    "data.options={samples=500}",
    "data.image_size=32",
    "training.epochs=12",
    "model.width=0.25",
    'cleaning.label_issues="off"',
    "compression.passes=[]",
    'export.formats=["onnx"]',
    "gates={}",
]
ARGUMENTS = ["run", "surface", "--json", *(word for setting in SETTINGS for word in ("--set", setting))]


@dataclass(frozen=True)
class Machine:
    """labline with nothing set but a bucket, its credentials, and where this machine's cache is."""

    folder: Path
    environment: dict[str, str]

    @property
    def cache(self) -> Path:
        (folder,) = (self.folder / "cache").iterdir()
        return folder

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command under way; with all of its family killed at the end."""
        process = subprocess.Popen(
            command(*arguments), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        family: list[psutil.Process] = []
        try:
            yield process
            if process.poll() is None:
                family = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()
            for orphan in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    orphan.kill()

    def run(self, *arguments: str) -> Ended:
        with self.running(*arguments) as process:
            out, err = process.communicate()
            return Ended(process.returncode, out, err)

    def history(self) -> pd.DataFrame:
        (file,) = self.cache.glob("stages/train/*/evidence/files/history.csv")
        return pd.read_csv(file)


@dataclass(frozen=True)
class Story:
    """`refused` in the middle and `killed` in training on machine a, `resumed` on b, and once more on a.

    `kept` are the epochs, as the killed run had trained them, that were in the bucket when it was killed.
    """

    server: Server
    url: str
    a: Machine
    b: Machine
    refused: Ended
    kept: list[dict[str, Any]]
    resumed: Ended
    again: Ended


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with running_object_storage() as server:
        url = server.new_store()
        a, b = (new_machine(tmp_path_factory.mktemp(name), server, url) for name in "ab")
        refused = run_until_refused(a, server, url)
        kept = run_until_killed(a, server, url)
        resumed = b.run(*ARGUMENTS)
        again = a.run(*ARGUMENTS)
        yield Story(server, url, a, b, refused, kept, resumed, again)


def new_machine(folder: Path, server: Server, url: str) -> Machine:
    own = {"LABLINE_STORE": url, "LABLINE_CACHE": str(folder / "cache")}
    return Machine(folder, embedded(folder) | server.environment | own)


def run_until_refused(machine: Machine, server: Server, url: str) -> Ended:
    """The keys are withdrawn as soon as the first stage is in the bucket."""
    with machine.running(*ARGUMENTS) as process:
        wait_for(process, lambda: any(name.endswith("complete.json") for name in server.names(url)))
        with server.refusing():
            out, err = process.communicate()
        return Ended(process.returncode, out, err)


def run_until_killed(machine: Machine, server: Server, url: str) -> list[dict[str, Any]]:
    """Killed -9 once the bucket holds an epoch; returns those that it holds then."""
    with machine.running(*ARGUMENTS) as process:
        wait_for(process, lambda: bool(epochs_kept(server, url)))
        process.kill()
    return epochs_kept(server, url)


def wait_for(process: subprocess.Popen[str], seen: Callable[[], bool]) -> None:
    while not seen():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def epochs_kept(server: Server, url: str) -> list[dict[str, Any]]:
    """The history in the checkpoint in the bucket; empty while there is none."""
    import torch

    checkpoints = [name for name in server.names(url) if name.startswith("checkpoints/train/")]
    for name in checkpoints:
        if name.endswith("checkpoint.pt"):
            with contextlib.suppress(server.client().exceptions.NoSuchKey):  # replaced by the next one
                return list(torch.load(io.BytesIO(server.content(url, name)), weights_only=True)["history"])
    return []


def test_a_refusal_in_the_middle_is_told_in_one_sentence(story: Story) -> None:
    assert story.refused.code == 2, story.refused.err
    assert "Traceback" not in story.refused.err
    (said,) = [line for line in story.refused.err.splitlines() if line.startswith("error: ")]
    assert f"LABLINE_STORE is {story.url}" in said
    assert "InvalidAccessKeyId" in said and "AWS_ACCESS_KEY_ID" in said


def test_what_had_ended_before_the_refusal_is_not_computed_again(story: Story) -> None:
    assert cached(story.resumed)[:3] == ["ingest", "validate", "clean"]


def test_a_killed_training_goes_on_on_the_other_machine(story: Story) -> None:
    assert story.kept
    history = story.b.history()
    assert len(history) == 12
    # The seconds that an epoch took are no one else's: these were trained on the other machine.
    assert list(history["seconds"][: len(story.kept)]) == pytest.approx([e["seconds"] for e in story.kept], rel=1e-9)


def test_its_checkpoint_is_gone_once_training_has_ended(story: Story) -> None:
    assert [name for name in story.server.names(story.url) if name.startswith("checkpoints/")] == []


def test_the_first_machine_takes_everything_from_the_second(story: Story) -> None:
    assert cached(story.resumed)[-1:] != ["register"]
    ran = [stage["name"] for stage in story.again.summary["stages"] if not stage["cached"]]
    assert ran == ["register"]  # each machine has a registry of its own here, and is told so
    assert "MLFLOW_TRACKING_URI" in " ".join(story.again.err.split())
    assert story.again.summary["metrics"] == story.resumed.summary["metrics"]


def test_the_evidence_of_the_second_machine_is_on_the_run_of_the_first(story: Story) -> None:
    client = MlflowClient(f"sqlite:///{story.a.cache}/mlflow/mlflow.db")
    run = client.get_run(story.again.summary["run_id"])
    assert run.info.artifact_uri.startswith(f"{story.url}/mlflow/artifacts/surface/")
    assert len(client.get_metric_history(run.info.run_id, "validation_accuracy")) >= 12
    evidence = [name for name in story.server.names(story.url) if f"/{run.info.run_id}/artifacts/train/" in name]
    assert any(name.endswith("learning_curves.png") for name in evidence)


def test_no_secret_is_left_anywhere(story: Story) -> None:
    for ended in (story.refused, story.resumed, story.again):
        assert SECRET not in ended.out + ended.err
    places = [story.a.folder, story.b.folder]
    kept = [path for folder in places for path in folder.rglob("*") if path.is_file()]
    assert [path for path in kept if SECRET.encode() in path.read_bytes()] == []
    assert all(SECRET.encode() not in story.server.content(story.url, name) for name in story.server.names(story.url))


def test_a_service_fetches_its_version_from_the_bucket(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in story.server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{story.b.cache}/mlflow/mlflow.db")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    with story.server.refusing(), pytest.raises(LablineError, match="cannot be fetched"):
        fetch("models:/surface/1", tmp_path / "refused")
    assert (fetch("models:/surface/1", tmp_path / "version") / "extra_files" / "usecase.toml").is_file()


def cached(ended: Ended) -> list[str]:
    assert ended.code == 0, ended.err
    return [stage["name"] for stage in ended.summary["stages"] if stage["cached"]]
