"""Approving: a person is asked in the Prefect UI, with the gates' table in front of them."""

from __future__ import annotations

from prefect import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field

from labline.errors import RejectedByPerson
from labline.ledger import now
from labline.references import GateTable
from tasks.gate_table import as_markdown
from tasks.moving import write_down
from tasks.registry import Registry


class Approval(RunInput):
    """What the person is asked; without an answer in time, the promotion is rejected."""

    approved: bool = Field(description="Shall this version be promoted?")
    reason: str = Field("", description="Why, or why not: it goes into the history.")
    who: str = Field("", description="Your name: it goes into the history.")


def ask(registry: Registry, table: GateTable, reason: str, hours: float) -> Approval:
    """Suspend the flow run until a person answers; the run then starts again from the top, on any worker.

    Raises RejectedByPerson for a no. Prefect fails a run that nobody answers within `hours`.
    """
    asked = [entry for entry in registry.ledger.entries(registry.usecase) if entry.kind == "asked"]
    request = f"approval of flow run {flow_run.id}"
    if not any(request in entry.why for entry in asked):
        why = f"{request}: {reason}" if reason else request
        write_down(registry, "asked", table, why, deadline=now() + 3600 * hours)
    question = Approval.with_initial_data(description=as_markdown(table))
    answer = suspend_flow_run(wait_for_input=question, timeout=int(3600 * hours), key="approval")
    if not answer.approved:
        write_down(registry, "rejected", table, answer.reason or "rejected", answer.who or None)
        raise RejectedByPerson(
            f"{registry.usecase} version {table.version} was not approved for {table.stage}"
            + (f" by {answer.who}" if answer.who else "")
            + (f": {answer.reason}" if answer.reason else "")
        )
    return answer
