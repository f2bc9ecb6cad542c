"""A challenger against its champion: on the old test set, on the new window, and up the stages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from labline.markdown import markdown_table
from labline.retraining import PART, Attempt
from tasks.judging import examine
from tasks.registry import Registry, alone
from tasks.version import fetch_version


@dataclass(frozen=True)
class Duel:
    """Champion and challenger on the same images: by part, one record each, and in one line."""

    parts: list[dict[str, Any]]
    verdict: str


def compare_with_champion(registry: Registry, attempt: Attempt, version: str) -> Duel:
    """Both on the old test set and on the new window, left on the challenger's MLflow run; raises BadInput."""
    import pandas as pd

    found = examine(fetch_version(registry, version)).compare(fetch_version(registry, attempt.champion))
    groups = pd.DataFrame(found.groups)
    parts = groups[groups["kind"] == PART].drop(columns="kind").rename(columns={"value": PART})
    records = [{str(name): value for name, value in row.items()} for row in parts.to_dict("records")]
    duel = Duel(records, found.verdict)
    run_id = str(registry.version(version).run_id)
    heading = f"Version {version} against version {attempt.champion}, because: {attempt.reason}"
    text = f"{heading}\n\n{markdown_table(parts)}\n\n{found.verdict}\n\n{markdown_table(groups)}"
    registry.client.log_text(run_id, text, "retraining/comparison.md")
    registry.client.log_text(run_id, json.dumps(duel.parts, indent=2), "retraining/comparison.json")
    for part in duel.parts:
        name = str(part[PART]).replace(" ", "_")
        for who in ("champion", "challenger"):
            # MLflow keeps the same point once, and this is tried again where a connection was lost.
            registry.client.log_metric(run_id, f"{name}_{who}", part[who], timestamp=int(attempt.at * 1000), step=0)
    tags = {"labline.run": "retraining", "labline.retraining": attempt.id, "labline.reason": attempt.reason}
    for tag, value in tags.items():
        registry.client.set_tag(run_id, tag, value)
    return duel


def stage_of(registry: Registry, version: str) -> str:
    """Where a version stands now, whatever was interrupted before."""
    with alone(registry.usecase):
        registry.reconcile()
    return registry.standing().stage_of(version)


def is_older(registry: Registry, version: str, attempt: Attempt) -> bool:
    """Whether a version was there before the attempt began: its training came out of the cache."""
    return float(registry.version(version).creation_timestamp or 0) / 1000 < attempt.at
