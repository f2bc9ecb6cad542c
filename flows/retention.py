"""The retention flow: what the clock starts every day, so that feedback is not kept longer than declared."""

from __future__ import annotations

from typing import Any

from tasks.environment import load_environment

load_environment()

from prefect import flow  # noqa: E402  (Prefect reads its settings when it is imported)
from prefect.artifacts import create_markdown_artifact  # noqa: E402
from pydantic import PositiveFloat  # noqa: E402

from tasks.patience import patiently  # noqa: E402
from tasks.retaining import retain  # noqa: E402
from tasks.watched import in_production  # noqa: E402


@flow(name="retention", flow_run_name="retention-{usecase}", persist_result=False)
def retention(usecase: str, days: PositiveFloat | None = None) -> dict[str, Any]:
    """Delete the feedback of a use case that is older than `days`, by default than its version in Production declares.

    Without a version in Production nothing says how long, and nothing is deleted. Returns the summary that
    `labline feedback USECASE retain --json` prints. Raises LablineError where the feedback store cannot be used.
    """
    if days is None and not patiently(lambda: in_production(usecase)):
        return {"usecase": usecase, "days": None, "deleted": 0}
    retained = patiently(lambda: retain(usecase, days))
    told = f"{retained.deleted:,} predictions older than {retained.days:g} days are deleted"
    create_markdown_artifact(key=f"{usecase}-retention", markdown=told, description=told)
    return {"usecase": usecase, "days": retained.days, "deleted": retained.deleted}
