"""The acts of the demo: each does one thing that a person or the clock would do, and says what came of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from flows.commands import labline
from flows.deployed_runs import run_deployed
from flows.processes import http
from flows.servers import in_production
from flows.story import Story
from labline.chronicle import Chronicle
from labline.errors import BadInput, LablineError
from tasks.chronicles import open_chronicle
from tasks.running import Running, read_running

USECASE = "surface"
MONITORING = "monitoring/monitoring"
SETTINGS = (
    'export.formats=["onnx"]',  # converting to TensorFlow Lite takes as long as all the rest
    'compression.passes=["int8-static"]',  # which would be chosen among all of them too
    'retraining.start="warm"',
    "retraining.epochs=30",
)
DRIFT = ("--drift", "lighting=-0.6")
HEALTHY, DRIFTED, RECOVERED = 1000, 2500, 2500  # predictions
WITHIN_SECONDS = 600.0
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Stage:
    """Where the demo plays: a storage root on which everything is up, and what has happened so far."""

    store: Path
    running: Running
    story: Story
    console: Console

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a command that uses the servers that are up."""
        registry = {"MLFLOW_REGISTRY_URI": self.running.environment["MLFLOW_TRACKING_URI"]}
        return os.environ | self.running.environment | registry

    @property
    def mlflow(self) -> str:
        """Where the MLflow pages are."""
        return self.running.environment["MLFLOW_TRACKING_URI"]

    @property
    def prefect(self) -> str:
        """Where the Prefect pages are."""
        return self.running.environment["PREFECT_API_URL"].removesuffix("/api")

    def service(self) -> str:
        """Where the model answers; raises LablineError where it does not come up."""
        _until("the service of the use case", lambda: _service(self.store) is not None)
        return _service(self.store) or ""

    def run(self, *words: str) -> dict[str, Any]:
        """Run a labline command, as a person would type it."""
        return labline(list(words), self.environment)


def train(stage: Stage) -> dict[str, Any]:
    """Carry the use case from nothing to a registered version.

    Raises BadInput where another story has put a version in Production here: this one could not be told apart.
    """
    standing = in_production(stage.mlflow) or {}
    if USECASE in standing:
        raise BadInput(
            f"version {standing[USECASE]} of {USECASE} is in Production on this storage root already, and the demo "
            "begins with none: play it on one of its own, LABLINE_STORE=.labline/demo labline demo"
        )
    settings = [word for assignment in SETTINGS for word in ("--set", assignment)]
    summary = stage.run("run", USECASE, *settings, "--reason", "the first model of the demo")
    return {"version": summary["version"], "accuracy": summary["metrics"]["test_accuracy"]}


def promote(stage: Stage) -> dict[str, Any]:
    """Move the version up through its gates, stage by stage, until the service answers with it."""
    version = str(stage.story.figures("train")["version"])
    for _ in ("Staging", "Production"):
        if (in_production(stage.mlflow) or {}).get(USECASE) != version:
            stage.run("promote", USECASE, "--version", version)
    _wait_for_version(stage, version)
    stage.story.note(f"version {version} is in Production")
    return {"version": version, "address": stage.service()}


def healthy_traffic(stage: Stage) -> dict[str, Any]:
    """Ask what the model was trained for, tell it what was true, and hear the verdict."""
    return _watched_traffic(stage, HEALTHY, 1, (), ("healthy",))


def drifted_traffic(stage: Stage) -> dict[str, Any]:
    """The same under a dim lamp: the verdict has to be that it must learn anew."""
    stage.story.note("the light grows dim")
    return _watched_traffic(stage, DRIFTED, 2, DRIFT, ("retrain",))


def wait_for_retraining(stage: Stage) -> dict[str, Any]:
    """Do nothing: the verdict's event has started a retraining, which promotes what is better.

    Raises LablineError where it ends without a new version in Production.
    """
    old = str(stage.story.figures("drift")["version"])
    stage.console.print("the worker retrains on the event of the verdict")
    with closing(open_chronicle()) as chronicle:
        _until("a new version in Production", lambda: _promoted(stage, chronicle, old))
    version = (in_production(stage.mlflow) or {})[USECASE]
    _wait_for_version(stage, version)
    stage.story.note(f"version {version} is in Production")
    return {"version": version, "previous": old}


def recovered_traffic(stage: Stage) -> dict[str, Any]:
    """The lamp is still dim; the new version has learned to see by it."""
    return _watched_traffic(stage, RECOVERED, 3, DRIFT, ("healthy", "watch"))


def draw(stage: Stage) -> dict[str, Any]:
    """Draw accuracy from the first prediction to the last with what happened, for the storage root and for MLflow."""
    from labline.feedback import FeedbackStore
    from labline.timeline import accuracy_timeline

    with closing(FeedbackStore(os.environ["LABLINE_FEEDBACK"])) as feedback:
        predictions = feedback.window(USECASE, since=stage.story.acts[0].begun)
    picture = stage.store / "demo.png"
    accuracy_timeline(predictions, stage.story.events, stage.story.figures("train")["accuracy"]).savefig(
        picture, dpi=150
    )
    return {"picture": str(picture), "run_id": _log(stage, picture)}


def _log(stage: Stage, picture: Path) -> str:
    """Put the picture and the figures beside the use case's other runs; returns the run's id."""
    from mlflow import MlflowClient

    client = MlflowClient(stage.mlflow, stage.environment["MLFLOW_REGISTRY_URI"])
    experiment = client.get_experiment_by_name(USECASE)
    assert experiment is not None  # the first act's training is in it
    run_id = str(client.create_run(experiment.experiment_id, run_name="demo", tags={"labline.run": "demo"}).info.run_id)
    client.log_artifact(run_id, str(picture))
    client.log_dict(run_id, stage.story.summary(), "demo.json")
    for name, value in stage.story.summary()["accuracy"].items():
        client.log_metric(run_id, f"accuracy_{name}", value)
    client.set_terminated(run_id)
    return run_id


def _watched_traffic(
    stage: Stage, count: int, seed: int, drift: tuple[str, ...], expected: tuple[str, ...]
) -> dict[str, Any]:
    """Replay traffic with its labels, then let the monitoring deployment look, as it does at every full hour."""
    begun = time.time()
    words = ["replay", USECASE, "--url", stage.service(), "--rate", "max", "--count", str(count), "--seed", str(seed)]
    sent = stage.run(*words, *drift)
    stage.console.print(
        f"accuracy [bold]{sent['accuracy']:.3f}[/] on {sent['answered']:,} predictions, "
        f"{sent['labels_accepted']:,} labels told"
    )
    _wait_until_stored(stage, sent["labels_accepted"])
    run_deployed(stage.prefect, MONITORING, {"usecase": USECASE}, WITHIN_SECONDS)
    with closing(open_chronicle()) as chronicle:
        told = [verdict for verdict in chronicle.verdicts(USECASE) if verdict.at >= begun]
    if not told or told[-1].kind not in expected:
        seen = f"{told[-1].kind}: {told[-1].content['reason']}" if told else "none"
        raise LablineError(f"the verdict was to be {' or '.join(expected)}, and is {seen}")
    verdict = told[-1]
    stage.console.print(f"verdict [bold]{verdict.kind}[/]: {verdict.content['reason']}")
    stage.story.note(f"verdict on version {verdict.version}: {verdict.kind}", verdict.at)
    return {
        "version": verdict.version,
        "accuracy": sent["accuracy"],
        "verdict": verdict.kind,
        "labels": sent["labels_accepted"],
    }


def _promoted(stage: Stage, chronicle: Chronicle, old: str) -> bool:
    """Whether another version is in Production; raises LablineError where the retraining ended without that."""
    standing = in_production(stage.mlflow) or {}
    if standing.get(USECASE, old) != old:
        return True
    attempts = chronicle.attempts(USECASE)
    if attempts and attempts[-1].champion == old:
        stage.story.note(f"retraining of version {old} begins", attempts[-1].at)
        if attempts[-1].outcome not in ("open", "promoted"):
            raise LablineError(f"the retraining ended as {attempts[-1].outcome}: {attempts[-1].note}")
    return False


def _wait_until_stored(stage: Stage, labels: int) -> None:
    """Wait for the service's journal to be in the feedback store, which the monitoring reads."""
    from labline.feedback import FeedbackStore

    before = sum(act.figures.get("labels", 0) for act in stage.story.acts)
    with closing(FeedbackStore(os.environ["LABLINE_FEEDBACK"])) as feedback:
        _until("the labels in the feedback store", lambda: feedback.counts(USECASE).labelled >= before + labels)


def _wait_for_version(stage: Stage, version: str) -> None:
    from flows.replay import service_key

    page, key = f"{stage.service()}/model", service_key(None)
    headers = {"authorization": f"Bearer {key}"} if key else {}

    def answered() -> bool:
        try:
            return bool(http().get(page, headers=headers).json().get("version") == version)
        except (httpx.HTTPError, json.JSONDecodeError):
            return False

    _until(f"version {version} at {page}", answered)


def _service(store: Path) -> str | None:
    running = read_running(store)
    service = running.service(USECASE) if running else None
    return service.address if service is not None and service.ready else None


def _until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise LablineError(f"waited {WITHIN_SECONDS:g} s for {what}: labline status and the logs may say why")
        time.sleep(LOOK_SECONDS)
