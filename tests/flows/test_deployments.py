"""deployments/prefect.yaml, deployed to a real server: what is there, and what a verdict starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import ConcurrencyLimitStrategy

from tasks.telling import send

PAYLOAD = {
    "usecase": "steel",
    "reason": "lamps: 5 % fewer",
    "since": 1795507273.5,
    "until": 1795507333.25,
    "version": "3",
}


@pytest.fixture(scope="module")
def deployed(servers: dict[str, str]) -> dict[str, Any]:
    """Every deployment by its name."""
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    environment = os.environ | {"LABLINE_PROJECT": str(Path.cwd())}
    subprocess.run(
        [*prefect, "work-pool", "create", "local", "--type", "process", "--overwrite"], check=True, env=environment
    )
    subprocess.run(
        [*prefect, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml"], check=True, env=environment
    )
    with get_client(sync_client=True) as client:
        return {deployment.name: deployment for deployment in client.read_deployments()}


def test_every_use_case_deploys(deployed: dict[str, Any]) -> None:
    for name in [path.stem for path in Path("usecases").glob("*.toml")]:
        flow = "forecasting.py:forecasting" if name == "volatility" else "training.py:training"
        assert deployed[name].entrypoint == f"flows/{flow}"
        assert deployed[name].parameters == {"usecase": name}


def test_the_loop_deploys(deployed: dict[str, Any]) -> None:
    assert deployed["promotion"].entrypoint == "flows/promotion.py:promotion"
    assert deployed["retraining"].entrypoint == "flows/retraining.py:retraining"
    assert deployed["rollback"].entrypoint == "flows/rolling_back.py:rollback"
    scheduled = {schedule.parameters["usecase"] for schedule in deployed["monitoring"].schedules}
    assert scheduled == {path.stem for path in Path("usecases").glob("*.toml")}


def test_a_second_run_waits_for_the_first_one(deployed: dict[str, Any]) -> None:
    for deployment in deployed.values():
        assert deployment.global_concurrency_limit and deployment.global_concurrency_limit.limit == 1
        assert deployment.concurrency_options
        assert deployment.concurrency_options.collision_strategy == ConcurrencyLimitStrategy.ENQUEUE


def runs(deployment: Any, atleast: int) -> list[Any]:
    """What was started by events; schedules aside."""
    chosen = FlowRunFilter.model_validate({"deployment_id": {"any_": [str(deployment.id)]}})
    with get_client(sync_client=True) as client:
        for _ in range(240):
            found = [run for run in client.read_flow_runs(flow_run_filter=chosen) if not run.auto_scheduled]
            if len(found) >= atleast:
                break
            time.sleep(0.25)
    return found


def tell(verdict: str) -> None:
    send("labline.verdict", "steel", uuid4(), PAYLOAD | {"verdict": verdict}, {"labline.verdict": verdict})


def test_a_verdict_starts_what_it_asks_for(deployed: dict[str, Any]) -> None:
    for verdict in ("healthy", "watch", "retrain", "rollback"):
        tell(verdict)
    (retraining,) = runs(deployed["retraining"], atleast=1)
    (rollback,) = runs(deployed["rollback"], atleast=1)
    expected = {name: PAYLOAD[name] for name in ("usecase", "reason", "since", "version")}
    assert retraining.parameters == expected | {"who": "a verdict"}
    del expected["since"]
    assert rollback.parameters == expected | {"who": "a verdict"}
