"""The gates' table: the record that is evidence, and the places where a person looks at it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from labline.gates import Judgement
from labline.markdown import markdown_table
from labline.references import GateTable
from labline.standing import Stage
from tasks.registry import Registry


def gate_table(number: str, stage: Stage, champion: str | None, judgements: Sequence[Judgement]) -> GateTable:
    """The judgements as a record with its digest, which the ledger cites as evidence."""
    rows = [asdict(judgement) for judgement in judgements]
    content = {"version": number, "stage": stage, "champion": champion, "judgements": rows}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return GateTable.model_validate(
        content | {"digest": digest, "passed": all(judgement.passed for judgement in judgements)}
    )


def as_markdown(table: GateTable) -> str:
    """The table for a person."""
    against = f", against version {table.champion} in Production" if table.champion else ""
    outcome = "passed" if table.passed else "refused"
    columns = ["passed", "gate", "figure", "limit", "note"]  # a narrow page cuts off what comes last
    shown = pd.DataFrame([judgement.model_dump() for judgement in table.judgements])[columns]
    return f"Version {table.version} for {table.stage}{against}: **{outcome}**\n\n{markdown_table(shown)}"


def refusal(usecase: str, table: GateTable) -> str:
    """What failed, and what can be done about it."""
    failed = [f"{row.gate} is {row.figure:.4g}, expected {row.limit}" for row in table.judgements if not row.passed]
    return (
        f"{usecase} version {table.version} is refused for {table.stage}: {'; '.join(failed)}. Train a better one, "
        "change [gates] or [promotion] in the declaration and train again, or promote it with --force and a --reason."
    )


def show_gates(registry: Registry, table: GateTable) -> None:
    """Leave the table on the version's MLflow run, in its tags and on the Prefect page."""
    from prefect.artifacts import create_markdown_artifact

    markdown = as_markdown(table)
    create_markdown_artifact(key=f"{registry.usecase}-promotion", markdown=markdown, description="gates of a promotion")
    client, version = registry.client, registry.version(table.version)
    folder = f"promotion/{table.stage.lower()}-{table.digest[:12]}"
    if version.run_id:
        client.log_text(version.run_id, markdown, f"{folder}.md")
        client.log_text(version.run_id, table.model_dump_json(indent=2), f"{folder}.json")
    outcome = "passed" if table.passed else "refused"
    failed = ", ".join(row.gate for row in table.judgements if not row.passed)
    tags = {"": f"{outcome} {failed}".strip(), ".evidence": table.digest}
    for row in table.judgements:
        name = row.gate.partition(":")[0].replace(" ", "-")
        tags[f".{name}"] = f"{'passed' if row.passed else 'refused'}: {row.figure:.4g}, {row.limit}"
    for name, value in tags.items():
        client.set_model_version_tag(registry.usecase, table.version, f"gates.{table.stage.lower()}{name}", value)
