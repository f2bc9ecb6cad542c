"""Retraining on real servers of which one dies in the middle: begun once, ended once, nothing doubled, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from free_ports import free_ports
from mlflow import MlflowClient
from outside import environment, prefect, worker
from production import in_production, strips, traffic
from small_runs import Ended, command

from flows.processes import marked, start, stop, wait_until_ready
from flows.servers import POOL, RUN_ID, go_on_with_stranded, make_pool, mlflow_command, server_environment
from labline.retraining import Attempt
from tasks.chronicles import open_chronicle
from tasks.environment import storage_root
from tasks.registry import open_registry
from tasks.telling import send

NAME = "outlasting"
AWAY_SECONDS = float(os.environ.get("LABLINE_AWAY_SECONDS", "20"))
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def eventually(holds: Callable[[], Any], told: Callable[[], str] = str) -> Any:
    """What `holds` returns as soon as that is something."""
    deadline = time.monotonic() + 300
    while not (found := holds()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.05)
    return found


def checkpoint() -> int:
    """When the training that is going on wrote its last checkpoint; 0 while there is none."""
    found = list(storage_root().glob("stages/train/*.partial/checkpoint.pt"))
    try:
        return max((path.stat().st_mtime_ns for path in found), default=0)
    except FileNotFoundError:
        return 0  # it has just ended


def folders(stage: str) -> set[Path]:
    """What a stage has begun; a name that is renamed at its end counts once."""
    return {path.with_suffix("") for path in storage_root().glob(f"stages/{stage}/*")}


def kill(*processes: psutil.Process) -> None:
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=60)


def attempts() -> list[Attempt]:
    return open_chronicle().attempts(NAME)


def versions() -> list[str]:
    return [str(version.version) for version in open_registry(NAME).versions()]


def assert_one_new_version(attempt: Attempt, tries: int) -> None:
    """Of one attempt, on one MLflow run that is complete and says everything once."""
    assert (attempt.outcome in ("promoted", "refused"), attempt.tries) == (True, tries), attempt
    client = MlflowClient()
    (registered,) = [each for each in open_registry(NAME).versions() if str(each.version) == attempt.version]
    run = client.get_run(str(registered.run_id))
    assert run.info.status == "FINISHED"
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    found = [each for each in client.search_runs([experiment.experiment_id]) if each.info.status != "FINISHED"]
    assert not found, "no other run was begun and left"
    epochs = [point.step for point in client.get_metric_history(run.info.run_id, "validation_accuracy")]
    assert epochs == list(range(1, len(epochs) + 1))
    for name in run.data.metrics:
        steps = Counter(point.step for point in client.get_metric_history(run.info.run_id, name))
        assert set(steps.values()) == {1}, (name, steps)


@pytest.fixture(scope="module")
def drifted(servers: dict[str, str]) -> float:
    """A version in Production whose lamps went dim, with labels; since when."""
    in_production(NAME)
    since = time.time()
    traffic(NAME, *strips(400, 1002, lighting=0.8), hours_ago=0)
    return since


def test_a_retraining_whose_worker_and_process_are_killed_is_gone_on_with(
    servers: dict[str, str], drifted: float, tmp_path: Path
) -> None:
    address = servers["prefect"]
    before = going_on(address)
    make_pool(address)
    home = tmp_path / "home"
    prefect(servers, home, "deploy", "--prefect-file", "deployments/prefect.yaml", "--name", "retraining")
    payload = {"usecase": NAME, "verdict": "retrain", "reason": "dim", "since": drifted, "version": "1"}
    send("labline.verdict", NAME, uuid4(), payload, {"labline.verdict": "retrain"})
    with worker(servers, POOL, home) as first:
        eventually(checkpoint, (home / "worker.log").read_text)
        (run,) = retrainings(address)
        compressed = folders("compress")
        kill(first)
        eventually(lambda: folders("compress") > compressed or not marked(RUN_ID, run["id"]))
        process = marked(RUN_ID, run["id"])
        assert process, "it has printed what came of training, to nobody, and goes on"
        assert run["name"] not in go_on_with_stranded(address, time.time()), "what outlives its worker is left alone"
        kill(*process)
    assert attempts()[0].outcome == "open"
    assert state_of(address, run["id"]) == "RUNNING", "by Prefect's account it goes on for ever"
    assert run["name"] in go_on_with_stranded(address, time.time())
    with worker(servers, POOL, home):
        eventually(lambda: state_of(address, run["id"]) in FINAL, (home / "worker.log").read_text)
    assert not going_on(address) - before
    (attempt,) = attempts()
    assert attempt.reason == "dim"
    assert_one_new_version(attempt, tries=2)
    assert versions() == ["2", "1"]


def retrainings(address: str) -> list[dict[str, Any]]:
    """Those that were begun for this file's use case: other tests on this server have begun their own."""
    where = {"deployments": {"name": {"any_": ["retraining"]}}}
    found: list[dict[str, Any]] = httpx.post(f"{address}/api/flow_runs/filter", json=where).raise_for_status().json()
    return [run for run in found if run["parameters"]["usecase"] == NAME]


def state_of(address: str, run: str) -> str:
    return str(httpx.get(f"{address}/api/flow_runs/{run}").raise_for_status().json()["state_type"])


def going_on(address: str) -> set[tuple[str, str]]:
    """Names and ids of the runs that are said to go on: of other tests' killed flows on this server, some are."""
    found: set[tuple[str, str]] = set()
    for kind in ("flow_runs", "task_runs"):
        where = {kind: {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}}
        left = httpx.post(f"{address}/api/{kind}/filter", json=where).raise_for_status().json()
        found |= {(each["name"], each["id"]) for each in left}
    return found


class OwnMlflow:
    """An MLflow server of the test's own beside the session's, on the same database: it can be killed."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.log = folder / "mlflow.log"
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.running["mlflow"] = start(mlflow_command(self.port), self.log, server_environment())
        wait_until_ready("mlflow", f"{self.address}/health", self.running["mlflow"], str(self.log))

    def kill(self) -> None:
        os.killpg(self.running["mlflow"].pid, signal.SIGKILL)
        self.running["mlflow"].wait()

    def stop(self) -> None:
        stop(self.running)


@pytest.fixture
def own_mlflow(servers: dict[str, str], tmp_path: Path) -> Iterator[OwnMlflow]:
    own = OwnMlflow(tmp_path)
    own.start()
    yield own
    own.stop()


def test_a_retraining_outlasts_an_mlflow_server_that_is_gone_for_a_while(
    servers: dict[str, str], drifted: float, own_mlflow: OwnMlflow, tmp_path: Path
) -> None:
    before = attempts()
    known = versions()
    traffic(NAME, *strips(400, 1004, lighting=-0.4), hours_ago=0)
    told, out = tmp_path / "told.txt", tmp_path / "out.txt"
    own = environment(servers) | {"MLFLOW_TRACKING_URI": own_mlflow.address}
    with told.open("wb") as err, out.open("wb") as printed:
        process = subprocess.Popen(command("retrain", NAME, "--json", "--force"), env=own, stdout=printed, stderr=err)
    eventually(lambda: checkpoint() or process.poll() is not None, told.read_text)
    own_mlflow.kill()
    eventually(lambda: "does not answer" in told.read_text() or process.poll() is not None, told.read_text)
    time.sleep(AWAY_SECONDS)
    own_mlflow.start()
    code = process.wait(timeout=300)
    assert "Traceback" not in told.read_text()
    assert code in (0, 3), told.read_text()
    *earlier, attempt = attempts()
    assert earlier == before
    assert_one_new_version(attempt, tries=1)
    assert versions() == [attempt.version, *known]
    if code == 0:
        assert Ended(code, out.read_text(), "").summary["outcome"] == "promoted"
