"""Telling a verdict: to the chronicle first, then to MLflow, then, as an event, to whoever acts on it.

Every step may be repeated and doubles nothing: the chronicle keeps a verdict once by its id, its MLflow run is found
again by a tag, and its event has an id of its own that the Prefect server knows.
"""

from __future__ import annotations

import logging
import os
from base64 import b64encode
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from labline.chronicle import Chronicle, Told
from labline.ledger import now
from tasks.registry import Registry
from tasks.verdict_evidence import evidence_folder, loggable

if TYPE_CHECKING:
    from mlflow import MlflowClient

ID_TAG = "labline.verdict.id"  # of the MLflow run
LONGEST = 4000  # characters of a tag's value


def log_verdicts(registry: Registry, chronicle: Chronicle) -> None:
    """Put on MLflow every verdict of the use case that is not there yet: also those of when its server was away."""
    for told in chronicle.verdicts(registry.usecase):
        if told.run_id or not (evidence_folder(told) / "verdict.json").is_file():
            continue
        run_id = _log(registry, told)
        chronicle.logged(told.id, run_id)


def announce_verdict(chronicle: Chronicle, told: Told) -> bool:
    """Send a verdict's event once; returns whether it was sent now."""
    if told.announced is not None or not os.environ.get("PREFECT_API_URL"):
        return False
    send("labline.verdict", told.usecase, UUID(told.id[:32]), told.content, {"labline.verdict": told.kind})
    chronicle.announced(told.id, now())
    return True


def send(event: str, usecase: str, id: UUID, payload: dict[str, Any], labels: dict[str, str] | None = None) -> None:
    """Send an event on the model of a use case, with `labels` that triggers can match, and wait until it is gone."""
    from prefect.events import emit_event
    from prefect.events.worker import EventsWorker

    logging.getLogger("EventsWorker").setLevel(logging.ERROR)  # tells the console that an event is on its way
    resource = {"prefect.resource.id": f"labline.model.{usecase}", "prefect.resource.name": usecase, **(labels or {})}
    emit_event(event=event, resource=resource, payload=payload, id=id)
    EventsWorker.drain_all(timeout=30)


def show_on_prefect(told: Told) -> None:
    """Leave the verdict and its picture as artifacts of the Prefect flow run."""
    from prefect.artifacts import create_image_artifact, create_markdown_artifact

    folder = evidence_folder(told)
    create_markdown_artifact(
        key=f"{told.usecase}-verdict",
        markdown=(folder / "verdict.md").read_text(),
        description=f"version {told.version}: {told.kind}",
    )
    picture = folder / "performance_over_time.png"
    if picture.is_file():
        encoded = b64encode(picture.read_bytes()).decode()
        create_image_artifact(
            key=f"{told.usecase}-performance",
            image_url=f"data:image/png;base64,{encoded}",
            description="performance over time",
        )


def _log(registry: Registry, told: Told) -> str:
    from mlflow.entities import Metric

    client = registry.client
    run_id = _run_of(client, registry, told)
    moment = int(told.at * 1000)
    metrics = [Metric(name, value, moment, 0) for name, value in loggable(told.content["figures"]).items()]
    client.log_batch(run_id, metrics=metrics)
    client.log_artifacts(run_id, str(evidence_folder(told)))
    tags = {
        "labline.verdict": told.kind,
        "labline.verdict.at": datetime.fromtimestamp(told.at, UTC).isoformat(timespec="seconds"),
        "labline.verdict.reasons": "; ".join(told.content["reasons"])[:LONGEST],
        "labline.verdict.run": run_id,
    }
    for name, value in tags.items():
        client.set_model_version_tag(registry.usecase, told.version, name, value)
    client.set_terminated(run_id, status="FINISHED")
    return run_id


def _run_of(client: MlflowClient, registry: Registry, told: Told) -> str:
    """The verdict's MLflow run, in the experiment of its version's training; one that was begun is gone on with."""
    trained = client.get_run(str(registry.version(told.version).run_id))
    experiment = str(trained.info.experiment_id)
    found = client.search_runs([experiment], f"tags.`{ID_TAG}` = '{told.id}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(
        experiment,
        run_name=f"monitoring-{told.usecase}-{told.version}-{told.kind}",
        start_time=int(told.at * 1000),
        tags={
            ID_TAG: told.id,
            "labline.usecase": told.usecase,
            "labline.version": told.version,
            "labline.verdict": told.kind,
            "labline.run": "monitoring",
            "mlflow.user": os.environ.get("USER", "labline"),
            "mlflow.source.name": "labline",
            "mlflow.note.content": "\n".join(f"- {reason}" for reason in told.content["reasons"]),
        },
    )
    return str(run.info.run_id)
