"""The rollback flow: what a verdict of `rollback` starts."""

from __future__ import annotations

from typing import Any

from tasks.environment import load_environment

load_environment()

from prefect import flow  # noqa: E402  (Prefect reads its settings when it is imported)

from tasks.announcing import announce  # noqa: E402
from tasks.moving import HasLeft, roll_back  # noqa: E402
from tasks.patience import patiently  # noqa: E402
from tasks.registry import open_registry  # noqa: E402


@flow(name="rollback", flow_run_name="rollback-{usecase}", persist_result=False)
def rollback(usecase: str, reason: str = "", version: str | None = None, who: str | None = None) -> dict[str, Any]:
    """Restore the Production before, once it has answered a test in a clean process.

    `version` is the one that the verdict was about: where another is in Production by now, nothing is moved, so that
    the same verdict twice does not go back twice. Raises BadInput where there is no earlier Production, LablineError
    where it does not answer.
    """
    registry = open_registry(usecase)
    try:
        entry = patiently(lambda: roll_back(registry, f"verdict: {reason}", who, leaving=version))
    except HasLeft as left:
        return {"usecase": usecase, "moved": False, "note": str(left)}
    announce(usecase, "rolled-back", entry)
    return {"usecase": usecase, "moved": True, "production": entry.after.production, "note": entry.why}
