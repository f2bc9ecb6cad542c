"""The promotion flow: a version earns Staging, and then Production."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tasks.environment import load_environment

load_environment()

from prefect import flow, task  # noqa: E402  (Prefect reads its settings when it is imported)
from pydantic import PositiveFloat  # noqa: E402

from labline.errors import RefusedByGate  # noqa: E402
from labline.references import GateTable  # noqa: E402
from tasks.announcing import announce  # noqa: E402
from tasks.approving import ask  # noqa: E402
from tasks.choosing import Choice, choose  # noqa: E402
from tasks.gate_table import refusal, show_gates  # noqa: E402
from tasks.judging import judge_version  # noqa: E402
from tasks.moving import promote, write_down  # noqa: E402
from tasks.observer import observer  # noqa: E402
from tasks.registry import open_registry  # noqa: E402

# A resumed run starts again from the top, maybe on another worker: what was done is found where all of them look.
RESULTS = Path(os.environ["PREFECT_LOCAL_STORAGE_PATH"])


@flow(
    name="promotion",
    flow_run_name="promotion-{usecase}",
    persist_result=True,
    result_storage=RESULTS,
    result_serializer="json",
)
def promotion(
    usecase: str,
    version: str | None = None,
    to: str | None = None,
    reason: str = "",
    who: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    wait_for_approval: bool = False,
    approval_hours: PositiveFloat = 24,
) -> dict[str, Any]:
    """Judge a version and move it to a stage.

    `version`: default the one in Staging, else the newest. `to`: staging or production, default the next one up.
    `force` moves it although gates refuse it; `dry_run` judges and moves nothing; `wait_for_approval` suspends the
    run until a person answers in the Prefect UI, and holds no worker meanwhile.
    Returns the summary that `labline promote --json` prints. Raises BadInput, RefusedByGate or RejectedByPerson.
    """
    registry = open_registry(usecase)
    choice = choose_version(usecase, version, to)
    table = judge_gates(usecase, choice)
    observer.get().judged(table)
    summary = {"usecase": usecase, **table.model_dump(), "moved": False}
    if dry_run:
        return summary
    if not table.passed and not force:
        announce(usecase, "refused", write_down(registry, "refused", table, reason or "its gates", who))
        raise RefusedByGate(refusal(usecase, table))
    if wait_for_approval:
        reason, who = ask(registry, table, reason, who, approval_hours)
    moved = promote(registry, table, reason, who, forced=not table.passed)
    announce(usecase, "promoted", moved)
    return summary | {"moved": True, "previous": moved.after.previous, "who": moved.who, "why": moved.why}


@task(name="choose", task_run_name="choose")
def choose_version(usecase: str, version: str | None, to: str | None) -> Choice:
    """Which version, for which stage, against which champion; remembered when the run is resumed."""
    return choose(open_registry(usecase), version, to)


@task(name="judge", task_run_name="judge")
def judge_gates(usecase: str, choice: Choice) -> GateTable:
    """Every gate of the stage, measured here and shown; remembered when the run is resumed."""
    registry = open_registry(usecase)
    table = judge_version(registry, choice.version, choice.stage, choice.champion)
    show_gates(registry, table)
    return table
