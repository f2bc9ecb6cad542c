"""deployments/prefect.yaml, deployed to a real server: what is there, and what a verdict starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from small_runs import invoke

from flows.servers import make_automations
from labline.declaration import shipped_names
from tasks.telling import send

USECASE = "steel"
PAYLOAD = {
    "usecase": USECASE,
    "reason": "lamps: 5 % fewer",
    "since": 1795507273.5,
    "until": 1795507333.25,
    "version": "3",
}


@pytest.fixture(scope="module")
def deployed(servers: dict[str, str], unheard: str) -> dict[str, Any]:
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


@pytest.fixture(scope="module")
def unheard(servers: dict[str, str]) -> Iterator[str]:
    """A flow run that was heard of once, under the automation of deployments/automations.yaml: its id.

    The automation goes with this file: it is too impatient for the runs of others on this server.
    """
    api = f"{servers['prefect']}/api"
    for _ in range(2):
        make_automations(servers["prefect"])
    (automation,) = httpx.post(f"{api}/automations/filter", json={}).raise_for_status().json()
    automation["trigger"]["within"] = 10  # seconds, the least that there is
    changed = {name: automation[name] for name in ("name", "trigger", "actions")}
    httpx.put(f"{api}/automations/{automation['id']}", json=changed).raise_for_status()
    flow = httpx.post(f"{api}/flows/", json={"name": "unheard"}).json()["id"]
    run = str(httpx.post(f"{api}/flow_runs/", json={"flow_id": flow, "state": {"type": "RUNNING"}}).json()["id"])
    emit_event("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{run}"})
    EventsWorker.drain_all(timeout=30)
    yield run
    httpx.delete(f"{api}/automations/{automation['id']}").raise_for_status()


def test_every_use_case_deploys(deployed: dict[str, Any]) -> None:
    for name in shipped_names(Path("usecases")):
        flow = "forecasting.py:forecasting" if name == "volatility" else "training.py:training"
        assert deployed[name].entrypoint == f"flows/{flow}"
        assert deployed[name].parameters == {"usecase": name}


def test_the_loop_deploys(deployed: dict[str, Any]) -> None:
    assert deployed["promotion"].entrypoint == "flows/promotion.py:promotion"
    assert deployed["retraining"].entrypoint == "flows/retraining.py:retraining"
    assert deployed["rollback"].entrypoint == "flows/rolling_back.py:rollback"
    assert deployed["tuning"].entrypoint == "flows/tuning.py:tuning"
    assert deployed["retention"].entrypoint == "flows/retention.py:retention"
    for name in ("monitoring", "retention"):
        scheduled = {schedule.parameters["usecase"] for schedule in deployed[name].schedules}
        assert scheduled == set(shipped_names(Path("usecases")))


def test_a_second_run_waits_for_the_first_one(deployed: dict[str, Any]) -> None:
    for deployment in deployed.values():
        assert deployment.global_concurrency_limit and deployment.global_concurrency_limit.limit == 1
        assert deployment.concurrency_options
        assert deployment.concurrency_options.collision_strategy == ConcurrencyLimitStrategy.ENQUEUE


def runs(deployment: Any, atleast: int) -> list[Any]:
    """What was started by this file's events; schedules and what other tests started aside."""
    chosen = FlowRunFilter.model_validate({"deployment_id": {"any_": [str(deployment.id)]}})
    with get_client(sync_client=True) as client:
        for _ in range(240):
            everything = client.read_flow_runs(flow_run_filter=chosen)
            found = [run for run in everything if not run.auto_scheduled and run.parameters["usecase"] == USECASE]
            if len(found) >= atleast:
                break
            time.sleep(0.25)
    return found


def tell(verdict: str) -> None:
    send("labline.verdict", USECASE, uuid4(), PAYLOAD | {"verdict": verdict}, {"labline.verdict": verdict})


def test_a_verdict_starts_what_it_asks_for(deployed: dict[str, Any]) -> None:
    for verdict in ("healthy", "watch", "retrain", "rollback"):
        tell(verdict)
    (retraining,) = runs(deployed["retraining"], atleast=1)
    (rollback,) = runs(deployed["rollback"], atleast=1)
    expected = {name: PAYLOAD[name] for name in ("usecase", "reason", "since", "version")}
    assert retraining.parameters == expected | {"who": "a verdict"}
    del expected["since"]
    assert rollback.parameters == expected | {"who": "a verdict"}


def test_a_run_that_is_not_heard_of_any_more_has_crashed(servers: dict[str, str], unheard: str) -> None:
    for _ in range(480):
        state = httpx.get(f"{servers['prefect']}/api/flow_runs/{unheard}").raise_for_status().json()["state"]
        if state["type"] != "RUNNING":
            break
        time.sleep(0.25)
    assert (state["type"], state["message"]) == ("CRASHED", "its worker was gone")


def test_what_trains_waits_for_a_gpu_and_nothing_else_does(deployed: dict[str, Any]) -> None:
    training = {*shipped_names(Path("usecases")), "retraining", "tuning"}
    for name, deployment in deployed.items():
        assert deployment.work_pool_name == "local"
        assert deployment.work_queue_name == ("gpu" if name in training else "cpu")
        assert deployment.job_variables == ({"gpus": 1, "stream_output": False} if name in training else {})
    queues = httpx.post(f"{os.environ['PREFECT_API_URL']}/work_pools/local/queues/filter", json={}).json()
    assert {queue["name"] for queue in queues} == {"default", "cpu", "gpu"}


DECLARED = 'name = "{name}"\ntitle = "{name}"\n[data]\nsource = "surfaces"\nimage_size = 32\n[training]\nepochs = 1\n'


def test_ones_own_use_cases_are_trained_and_watched_on_the_pool_that_is_named(
    deployed: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("castings", "turnings"):
        (tmp_path / f"{name}.toml").write_text(DECLARED.format(name=name))
    paths = [str(tmp_path / f"{name}.toml") for name in ("castings", "turnings")]
    ended = invoke("deploy", *paths, "steel", "--pool", "cluster", "--kind", "kubernetes", "--gpus", "2", "--json")
    assert ended.code == 0, ended.err
    names = ["training/castings", "monitoring/castings", "training/turnings", "monitoring/turnings", "training/steel"]
    assert ended.summary == {"deployments": names, "pool": "cluster"}
    with get_client(sync_client=True) as client:
        read = {name: client.read_deployment_by_name(name) for name in names}
        pool = client.read_work_pool("cluster")
    castings, watching = read["training/castings"], read["monitoring/castings"]
    assert (castings.work_pool_name, castings.work_queue_name, castings.job_variables) == (
        "cluster",
        "gpu",
        {"gpus": 2, "stream_output": False},
    )
    assert castings.parameters == {"usecase": paths[0]}
    assert (watching.work_queue_name, watching.parameters) == ("cpu", {"usecase": "castings", "required": False})
    (schedule,) = watching.schedules
    assert (schedule.active, schedule.slug) == (True, "castings")
    assert read["training/steel"].parameters == {"usecase": "steel"}
    (other,) = read["monitoring/turnings"].schedules
    assert other.schedule.cron != schedule.schedule.cron  # they do not all begin at once
    assert pool.type == "kubernetes"
    manifest = pool.base_job_template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert manifest["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"


@pytest.mark.parametrize("words", [["--kind", "kubernets"], ["stee"]])
def test_a_kind_or_a_use_case_that_nobody_knows_is_bad_input(servers: dict[str, str], words: list[str]) -> None:
    ended = invoke("deploy", *words)
    assert ended.code == 2
    assert "did you mean" in ended.err


def test_a_server_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    for command in ("deploy", "worker"):
        ended = invoke(command)
        assert ended.code == 2
        assert "set PREFECT_API_URL" in ended.err
