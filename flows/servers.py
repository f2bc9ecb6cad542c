"""The commands of the servers, the worker and the services, and how each tells that it is ready."""

from __future__ import annotations

import contextlib
import os
import sys
from datetime import datetime
from typing import Any

import httpx

from flows.accounts import mlflow_account, prefect_account
from flows.processes import http, marked
from labline.errors import LablineError
from tasks.environment import PROJECT

POOL = "local"  # as deployments/prefect.yaml names it
WORKER = "labline"
WORKER_QUERY_SECONDS = "2"  # how often the worker asks for runs; Prefect's 10 are felt when somebody waits
DEPLOYMENTS = PROJECT / "deployments" / "prefect.yaml"
AUTOMATIONS = PROJECT / "deployments" / "automations.yaml"
API_SECONDS = 10.0
MOST_TRIES = 3  # of a flow run whose worker is killed each time
RUN_ID = "PREFECT__FLOW_RUN_ID"  # in the environment of a flow run's process
GOING_ON = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
CRASHED = {"type": "CRASHED", "message": "its worker was gone"}
AGAIN = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "its worker was gone"}
PREFECT_PAGES = {
    # The pages ask port 4200 unless told otherwise; a relative address holds on any port and behind a tunnel.
    "PREFECT_SERVER_UI_API_URL": "/api",
    # The second version of the pages calls amplitude.com even with analytics off; the first calls nobody.
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
}


def mlflow_command(port: int, proxied: bool = True) -> list[str]:
    """The command that serves the MLflow pages of the configured store.

    With `proxied`, clients send the artifacts of new experiments through the server. Without, they write them where
    the server reads them: for clients of this machine, which can then read them without the server too.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = {
        "--backend-store-uri": os.environ["MLFLOW_TRACKING_URI"],
        "--registry-store-uri": os.environ["MLFLOW_REGISTRY_URI"],
        "--artifacts-destination": os.environ["LABLINE_MLFLOW_ARTIFACTS"],
    }
    if not proxied:
        stores["--default-artifact-root"] = os.environ["LABLINE_MLFLOW_ARTIFACTS"]
    return command + [part for option in stores.items() for part in option]


def prefect_command(port: int) -> list[str]:
    """The command that serves the Prefect pages of the configured home."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]


def server_environment() -> dict[str, str]:
    """The variables of both servers."""
    # A server must not take itself for its own client, and loopback needs no tracking address.
    client_only = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")
    return PREFECT_PAGES | {name: value for name, value in os.environ.items() if name not in client_only}


def client_environment(mlflow: str, prefect: str) -> dict[str, str]:
    """The variables with which a process uses servers at these addresses."""
    return {"MLFLOW_TRACKING_URI": mlflow, "PREFECT_API_URL": f"{prefect}/api"}


def worker_command() -> list[str]:
    """The command of a worker that runs flows as processes of this machine."""
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", WORKER]


def deploy_command() -> list[str]:
    """The command that tells the Prefect server of every deployment; run in the project's folder."""
    return [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]


def service_command(usecase: str, port: int) -> list[str]:
    """The command of the service of a use case; needs mlflow.env loaded, as `labline serve` does."""
    return [sys.executable, "-P", "-m", "serving", usecase, "--port", str(port)]


def make_pool(prefect: str) -> None:
    """Make the worker's pool where there is none: the worker would, but deployments need not wait for it then."""
    try:
        pool, account = {"name": POOL, "type": "process"}, prefect_account()
        answer = http().post(f"{prefect}/api/work_pools/", json=pool, auth=account, timeout=API_SECONDS)
    except httpx.HTTPError as error:
        raise LablineError(f"the Prefect server at {prefect} does not answer: {error}") from error
    if answer.status_code not in (201, 409):
        raise LablineError(f"the Prefect server at {prefect} made no work pool {POOL}: status {answer.status_code}")


def make_automations(prefect: str) -> None:
    """Make the automations of deployments/automations.yaml that are not there yet, by their names."""
    import yaml  # type: ignore[import-untyped]

    declared = yaml.safe_load(AUTOMATIONS.read_text())["automations"]
    wanted = {"automations": {"name": {"any_": [automation["name"] for automation in declared]}}}
    try:
        with httpx.Client(base_url=f"{prefect}/api", auth=prefect_account(), timeout=API_SECONDS) as client:
            there = {automation["name"] for automation in _found(client, "automations", wanted)}
            for automation in declared:
                if automation["name"] not in there:
                    client.post("/automations/", json=automation).raise_for_status()
    except httpx.HTTPError as error:
        raise LablineError(f"the Prefect server at {prefect} made no automation: {error}") from error


def worker_is_ready(prefect: str, begun: float) -> bool:
    """Whether the worker that was started at `begun`, in seconds since 1970, has been heard of."""
    with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
        page, account = f"{prefect}/api/work_pools/{POOL}/workers/filter", prefect_account()
        asked = http().post(page, json={}, auth=account, timeout=API_SECONDS)
        heard = [worker["last_heartbeat_time"] for worker in asked.json() if worker["name"] == WORKER]
        return any(datetime.fromisoformat(at).timestamp() > begun for at in heard)
    return False


def in_production(registry: str) -> dict[str, str] | None:
    """The version in Production of every registered model that has one; None where MLflow does not answer.

    By alias, which is what the services go by.
    """
    with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
        page = f"{registry}/api/2.0/mlflow/registered-models/search"
        asked = http().get(page, params={"max_results": 1000}, auth=mlflow_account(), timeout=API_SECONDS)
        asked.raise_for_status()
        return {
            model["name"]: str(alias["version"])
            for model in asked.json().get("registered_models", [])
            for alias in model.get("aliases", [])
            if alias["alias"] == "production"
        }
    return None


def go_on_with_stranded(prefect: str, before: float, pool: str = POOL) -> list[str]:
    """Schedule anew every run that is said to go on in a pool although its process is gone; returns their names.

    Looked at are runs whose state is of `before` this moment, in seconds since 1970: since when no worker of the pool
    but those that live has begun any. A worker that was killed, or taken down, cannot say itself how its runs ended,
    and they would keep their deployment's place for ever (https://github.com/PrefectHQ/prefect/issues/16746); one
    whose process outlives its worker is left alone. Flows are made to be run again: what was done is cached. A run
    that was begun three times has crashed. Raises LablineError where the Prefect server does not answer.
    """
    try:
        with httpx.Client(base_url=f"{prefect}/api", auth=prefect_account(), timeout=API_SECONDS) as client:
            stranded = _stranded(client, before, pool)
            for run in stranded:
                parts = {"parent_flow_run_id": {"any_": [run["id"]]}}
                parts_of_run = _found(client, "flow_runs", {"flow_runs": GOING_ON | parts})
                for each in (*parts_of_run, run):
                    tasks = {"flow_runs": {"id": {"any_": [each["id"]]}}, "task_runs": GOING_ON}
                    for task in _found(client, "task_runs", tasks):
                        _force(client, "task_runs", task, CRASHED)
                for part in parts_of_run:
                    _force(client, "flow_runs", part, CRASHED)
                _force(client, "flow_runs", run, AGAIN if run["run_count"] < MOST_TRIES else CRASHED)
    except httpx.HTTPError as error:
        raise LablineError(f"the Prefect server at {prefect} does not answer: {error}") from error
    return [run["name"] for run in stranded]


def _stranded(client: httpx.Client, before: float, pool: str) -> list[dict[str, Any]]:
    """Looked at twice: a process that is gone says nothing more, but may have said how it ended just before."""
    where = {"flow_runs": GOING_ON, "work_pools": {"name": {"any_": [pool]}}}
    gone = {
        run["state_id"]
        for run in _found(client, "flow_runs", where)
        if datetime.fromisoformat(run["state"]["timestamp"]).timestamp() < before and not marked(RUN_ID, run["id"])
    }
    return [run for run in _found(client, "flow_runs", where) if run["state_id"] in gone] if gone else []


def _found(client: httpx.Client, kind: str, where: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.post(f"/{kind}/filter", json=where).raise_for_status().json()
    return found


def _force(client: httpx.Client, kind: str, run: dict[str, Any], state: dict[str, str]) -> None:
    client.post(f"/{kind}/{run['id']}/set_state", json={"state": state, "force": True}).raise_for_status()
