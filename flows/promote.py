"""`labline promote`: the promotion flow with a person watching, or handed to a worker that asks one."""

from __future__ import annotations

import os
from typing import Any

from flows.run import embedded_server, watched
from labline.errors import BadInput
from tasks.environment import load_environment

DEPLOYMENT = "promotion/promotion"


def run_promotion(usecase: str, options: dict[str, Any], json: bool) -> None:
    """Judge and move a version, and close with the gates' table; `options` are those of the flow."""
    load_environment()
    if options["wait_for_approval"]:
        _close(_handed_over(usecase, options), json)
        return
    with embedded_server():
        from flows.promotion import promotion
    _close(watched(lambda: promotion(usecase, **options)), json)


def _close(summary: dict[str, Any], json: bool) -> None:
    from rich.console import Console

    from flows.console import print_json_line

    Console(stderr=json, highlight=False).print(_outcome(summary), soft_wrap=True)
    if json:
        print_json_line(summary)


def _outcome(summary: dict[str, Any]) -> str:
    if "flow_run" in summary:
        return f"asked for approval: {summary['flow_run']}\na worker judges it, then a person answers on that page"
    if summary["moved"]:
        before = f", before it version {summary['previous']}" if summary["previous"] else ""
        return f"{summary['usecase']} version {summary['version']} is in {summary['stage']} now{before}"
    return "passed: without --dry-run it would be promoted" if summary["passed"] else "its gates would refuse it"


def _handed_over(usecase: str, options: dict[str, Any]) -> dict[str, Any]:
    """Start the deployment: only a deployed run can be suspended without holding this process."""
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise BadInput(
            "--wait-for-approval needs a Prefect server where a person can answer and a worker that goes on then: "
            "set PREFECT_API_URL and deploy deployments/prefect.yaml (docs/promotion.md)"
        )
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    from tasks.choosing import choose
    from tasks.registry import open_registry, person

    choose(open_registry(usecase), options["version"], options["to"])  # what cannot be had is said here and now
    parameters = {"usecase": usecase, **options, "who": options["who"] or person()}
    try:
        run: Any = run_deployment(DEPLOYMENT, parameters=parameters, timeout=0)
    except ObjectNotFound:
        raise BadInput(
            f"there is no deployment {DEPLOYMENT} on {api}: "
            "prefect deploy --all --prefect-file deployments/prefect.yaml"
        ) from None
    page = api.removesuffix("/").removesuffix("/api")
    return {"usecase": usecase, "flow_run": f"{page}/runs/flow-run/{run.id}", "moved": False}
