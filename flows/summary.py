"""What a training run came to, as one JSON-able object."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from labline.references import (
    CompressedModel,
    DatasetRef,
    EvaluatedModel,
    ExportedModel,
    RegisteredVersion,
    TrainedModel,
)
from tasks.observer import StageRecord


def summarize(
    cleaned: DatasetRef,
    trained: TrainedModel,
    compressed: CompressedModel,
    exported: ExportedModel,
    evaluated: EvaluatedModel,
    version: RegisteredVersion,
    stages: Sequence[StageRecord],
) -> dict[str, Any]:
    """The summary that `labline run --json` prints; documented in docs/command-line.md."""
    return {
        "usecase": version.model,
        "version": version.version,
        "run_id": version.run_id,
        "metrics": {**trained.metrics, **evaluated.metrics},
        "intervals": evaluated.intervals,
        "stages": stage_rows(stages),
        "candidates": [candidate.model_dump() for candidate in [*compressed.candidates, *exported.candidates]],
        "unit": compressed.unit,
        "chosen": compressed.chosen,
        "reason": compressed.reason,
        "tflite_reason": exported.tflite_reason,
        "parity": exported.parity,
        "rivals": evaluated.rivals,
        "verdict": evaluated.verdict,
        "quarantined": cleaned.quarantined,
        "links": page_links(version.run_id),
    }


def page_links(run_id: str) -> list[str]:
    """Where to look: the MLflow run page and the Prefect flow-run page."""
    from mlflow import MlflowClient
    from prefect.runtime import flow_run

    tracking, prefect_api = os.environ["MLFLOW_TRACKING_URI"], os.environ.get("PREFECT_API_URL", "")
    served = tracking.startswith("http")
    mlflow_page = tracking.rstrip("/") if served else "http://127.0.0.1:5000"
    prefect_page = prefect_api.removesuffix("/").removesuffix("/api") or "http://127.0.0.1:4200"
    experiment = MlflowClient().get_run(run_id).info.experiment_id
    links = [
        f"MLflow run:       {mlflow_page}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning",
        f"Prefect flow run: {prefect_page}/runs/flow-run/{flow_run.id}",
    ]
    return links if served and prefect_api else [*links, "labline ui serves these pages"]


def stage_rows(stages: Sequence[StageRecord]) -> list[dict[str, Any]]:
    """One object a stage: name, seconds, cached, key figure, and why it ran."""
    return [
        {
            "name": stage.name,
            "seconds": round(stage.seconds, 3),
            "cached": stage.cached,
            "figure": stage.figure,
            "reason": stage.reason,
        }
        for stage in stages
    ]
