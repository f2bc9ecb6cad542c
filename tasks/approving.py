"""Approving: a person is asked in the Prefect UI, with the gates' table in front of them."""

from __future__ import annotations

from prefect import suspend_flow_run
from prefect.context import FlowRunContext
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field

from labline.errors import RejectedByPerson
from labline.ledger import now
from labline.references import GateTable
from tasks.gate_table import as_markdown
from tasks.moving import write_down
from tasks.registry import Registry

KEY = "approval"
SOMEBODY = "somebody in Prefect"  # its UI does not say who


class Approval(RunInput):
    """What the person is asked; without an answer in time, the promotion is rejected."""

    approved: bool = Field(description="Shall this version be promoted? Off is a no.")
    reason: str = Field("", description="Why, or why not: it goes into the history.")
    who: str = Field("", description="Your name: it goes into the history.")


def ask(registry: Registry, table: GateTable, reason: str, who: str | None, hours: float) -> tuple[str, str]:
    """Suspend the flow run until a person answers; the run then starts again from the top, on any worker.

    `reason` and `who` are those of the request; returns those of the yes. Raises RejectedByPerson for a no, and
    where a run whose question was settled is started again: Prefect fails a run that nobody answers within `hours`.
    """
    run = str(flow_run.id)
    request = f"approval of flow run {run}"
    if not _is_resumed():
        if any(request in entry.why for entry in registry.ledger.entries(registry.usecase)):
            raise RejectedByPerson(
                f"the question whether {registry.usecase} version {table.version} enters {table.stage} was settled: "
                f"ask anew with labline promote {registry.usecase} --version {table.version} --wait-for-approval"
            )
        why = f"{request}: {reason}" if reason else request
        write_down(registry, "asked", table, why, who, deadline=now() + 3600 * hours, question=run)
    question = Approval.with_initial_data(description=f"### {registry.usecase}\n\n{reason}\n\n{as_markdown(table)}")
    answer = suspend_flow_run(wait_for_input=question, timeout=max(1, int(3600 * hours)), key=KEY)
    by = answer.who.strip() or SOMEBODY
    if not answer.approved:
        write_down(registry, "rejected", table, answer.reason or "rejected", by, question=run)
        said = f": {answer.reason}" if answer.reason else ""
        raise RejectedByPerson(
            f"{registry.usecase} version {table.version} was not approved for {table.stage} by {by}{said}"
        )
    write_down(registry, "approved", table, answer.reason or "approved", by, question=run)
    return answer.reason or reason, by


def _is_resumed() -> bool:
    """Whether this run was suspended for its question before; starting a failed run again makes Prefect forget it."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run is not None and KEY in (run.empirical_policy.pause_keys or ())
