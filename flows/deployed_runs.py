"""Runs of deployments, started and waited for as the clock or a person at the Prefect pages would."""

from __future__ import annotations

import time
from typing import Any

import httpx

from flows.accounts import prefect_account
from labline.errors import LablineError

API_SECONDS = 10.0
LOOK_SECONDS = 0.5
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def run_deployed(prefect: str, deployment: str, parameters: dict[str, Any], within_seconds: float) -> str:
    """Start `flow/deployment` on the Prefect server at an address, wait until it has completed, return the run's id.

    Raises LablineError where there is no such deployment, where the run ends otherwise, or does not end in time.
    """
    with httpx.Client(base_url=f"{prefect}/api", auth=prefect_account(), timeout=API_SECONDS) as client:
        try:
            found = client.get(f"/deployments/name/{deployment}")
            if found.status_code == httpx.codes.NOT_FOUND:
                raise LablineError(f"there is no deployment {deployment} at {prefect}: labline up deploys them")
            page = f"/deployments/{found.raise_for_status().json()['id']}/create_flow_run"
            run = str(client.post(page, json={"parameters": parameters}).raise_for_status().json()["id"])
            _wait(client, prefect, deployment, run, time.monotonic() + within_seconds)
        except httpx.HTTPError as error:
            raise LablineError(f"the Prefect server at {prefect} does not answer: {error}") from error
    return run


def _wait(client: httpx.Client, prefect: str, deployment: str, run: str, deadline: float) -> None:
    state: dict[str, Any] = {}
    while time.monotonic() < deadline:
        state = client.get(f"/flow_runs/{run}").raise_for_status().json()["state"] or {}
        if state.get("type") in FINAL:
            break
        time.sleep(LOOK_SECONDS)
    if state.get("type") != "COMPLETED":
        told = f"{state.get('name', 'unknown')}: {state.get('message') or 'no message'}"
        raise LablineError(f"{deployment} did not complete ({told}): see {prefect}/runs/flow-run/{run}")
