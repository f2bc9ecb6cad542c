"""`labline up`, `status`, `down`: everything comes, is kept, is used, and goes without leaving a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from free_ports import free_ports
from small_runs import Ended, command, embedded
from small_versions import write_version

from flows.down import clear_away
from flows.processes import end
from flows.servers import POOL, go_on_with_stranded
from flows.supervision import Place, Supervisor
from labline.errors import LablineError
from tasks.running import MARK, Process, Running, Service, identify, read_running, write_running

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "bright"
ELSEWHERE = {"PREFECT_API_URL": "http://a/api"}


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def everything(supervisor: psutil.Process) -> list[psutil.Process]:
    return [supervisor, *supervisor.children(recursive=True)]


def assert_gone(family: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(family, timeout=5)
    for process in left:
        process.kill()
    assert not left


class Root:
    """A storage root on which `up` is called, and the words for its ports."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        (self.store / "mlflow").mkdir(parents=True)
        mlflow, prefect, self.port = free_ports(3)
        self.words = [f"--mlflow-port={mlflow}", f"--prefect-port={prefect}", f"--port={self.port}"]

    def labline(self, *arguments: str) -> Ended:
        done = subprocess.run(command(*arguments), env=embedded(self.store), capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    def registry(self) -> MlflowClient:
        """Its database, which nobody need be up for."""
        from mlflow import MlflowClient

        address = f"sqlite:///{self.store}/mlflow/mlflow.db"
        return MlflowClient(address, address)

    def promote(self, folder: Path) -> None:
        """Register a version and give it the alias that the services go by."""
        client = self.registry()
        version = client.create_model_version(NAME, str(write_version(folder, 0.001, 'title = "Bright or dark"\n')))
        client.set_registered_model_alias(NAME, "production", version.version)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    made = Root(tmp_path)
    yield made
    running = read_running(made.store)
    if running is not None and running.supervisor.found is not None:
        end(everything(running.supervisor.found))


def test_it_comes_up_once_mends_what_dies_serves_what_is_promoted_and_goes_down(root: Root, tmp_path: Path) -> None:
    assert root.labline("status").code == 1
    root.registry().create_registered_model(NAME)
    up = root.labline("up", "--usecase", NAME, "--detach", "--json", *root.words)
    assert up.code == 0, up.err
    assert list(up.summary["services"]) == ["mlflow", "prefect", "worker"]
    assert up.summary["waiting"] == [NAME]
    again = root.labline("up", "--json", *root.words)
    assert again.code == 0 and "up already" in again.err
    assert again.summary["pid"] == up.summary["pid"]

    # Another command on this storage root finds the servers by itself, unless it is told of others.
    asked = "import os; from tasks.environment import load_environment as l; l(); print(os.environ['PREFECT_API_URL'])"
    told = embedded(root.store)
    for environment, expected in ((told, up.summary["services"]["prefect"]["address"]), (told | ELSEWHERE, "http://a")):
        found = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True)
        assert found.stdout.strip() == f"{expected}/api"
    assert len(prefect(up, "/deployments/filter", {})) >= 6
    assert_stranded_run_gives_its_place_back(up)
    assert_run_that_lost_its_worker_is_gone_on_with(up, root.store)

    root.promote(tmp_path / "version")
    eventually(lambda: (running := read_running(root.store)) is not None and ready(running, NAME) is not None)
    with urllib.request.urlopen(f"http://127.0.0.1:{root.port}/model") as answer:
        assert json.load(answer)["version"] == "1"

    running = read_running(root.store)
    assert running is not None
    killed = ready(running, NAME)
    assert killed is not None and killed.process is not None
    os.kill(killed.process.pid, signal.SIGKILL)
    eventually(lambda: (mended := ready(read_running(root.store), NAME)) is not None and mended.restarts == 1)
    shown = root.labline("status", "--json")
    assert shown.code == 0, shown.out
    assert shown.summary["services"][NAME]["restarts"] == 1

    family = everything(psutil.Process(up.summary["pid"]))
    assert len(family) >= 6
    down = root.labline("down", "--json")
    assert down.summary["ended"] == ["mlflow", "prefect", "worker", NAME]
    assert_gone(family)
    assert read_running(root.store) is None
    assert "nothing is up" in root.labline("down").out


def prefect(up: Ended, path: str, sent: dict[str, Any]) -> Any:
    """What the Prefect server that is up answers."""
    return httpx.post(f"{up.summary['services']['prefect']['address']}/api{path}", json=sent).raise_for_status().json()


def assert_stranded_run_gives_its_place_back(up: Ended) -> None:
    """A run whose worker was killed goes on for ever by Prefect's account; the next one of its deployment waits."""
    prefect(up, "/work_pools/", {"name": "elsewhere", "type": "process"})
    flow = prefect(up, "/flows/", {"name": "long"})["id"]
    described = {"name": "long", "flow_id": flow, "work_pool_name": "elsewhere", "concurrency_limit": 1}
    deployment = prefect(up, "/deployments/", described)["id"]

    def try_to_run() -> tuple[str, str]:
        run = prefect(up, f"/deployments/{deployment}/create_flow_run", {})["id"]
        answer = prefect(up, f"/flow_runs/{run}/set_state", {"state": {"type": "PENDING"}})
        return run, answer["state"]["type"]

    first, state = try_to_run()
    assert state == "PENDING"
    _, state = try_to_run()
    assert state == "SCHEDULED"
    assert len(go_on_with_stranded(up.summary["services"]["prefect"]["address"], time.time(), "elsewhere")) == 1
    found = prefect(up, "/flow_runs/filter", {"flow_runs": {"id": {"any_": [first]}}})
    assert found[0]["state_name"] == "AwaitingRetry"
    _, state = try_to_run()
    assert state == "PENDING"


def assert_run_that_lost_its_worker_is_gone_on_with(up: Ended, store: Path) -> None:
    """As when a worker is killed with what it runs: the supervisor starts another, and gives it the run."""
    flow = prefect(up, "/flows/", {"name": "lost"})["id"]
    deployment = prefect(up, "/deployments/", {"name": "lost", "flow_id": flow, "work_pool_name": POOL})["id"]
    run = prefect(up, f"/deployments/{deployment}/create_flow_run", {"state": {"type": "RUNNING"}})["id"]
    running = read_running(store)
    worker = running.service("worker") if running else None
    assert worker is not None and worker.process is not None
    os.kill(worker.process.pid, signal.SIGKILL)
    where = {"flow_runs": {"id": {"any_": [run]}}}
    eventually(lambda: prefect(up, "/flow_runs/filter", where)[0]["state_type"] != "RUNNING")


def ready(running: Running | None, name: str) -> Service | None:
    service = running.service(name) if running else None
    return service if service is not None and service.ready else None


def test_ctrl_c_while_it_comes_up_leaves_no_process(root: Root) -> None:
    with (root.store / "printed.txt").open("wb") as printed:
        up = subprocess.Popen(command("up", *root.words), env=embedded(root.store), stdout=printed, stderr=printed)
    eventually(lambda: (running := read_running(root.store)) is not None and running.service("prefect") is not None)
    family = everything(psutil.Process(up.pid))
    assert len(family) >= 3
    up.send_signal(signal.SIGINT)
    assert up.wait(timeout=60) == 0, (root.store / "printed.txt").read_text()
    assert_gone(family)
    assert "down" in (root.store / "printed.txt").read_text()


@pytest.mark.parametrize("option", ["--mlflow-port", "--prefect-port", "--port"])
def test_a_port_in_use_is_bad_input(option: str, root: Root) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        ended = root.labline("up", *root.words, f"{option}={port}")
    assert ended.code == 2
    assert f"port {port}" in ended.err and option in ended.err
    assert read_running(root.store) is None


def test_a_use_case_that_nobody_knows_is_bad_input(root: Root) -> None:
    ended = root.labline("up", *root.words, "--usecase", "surfce")
    assert ended.code == 2
    assert "did you mean 'surface'" in ended.err


def place(log: Path, script: str) -> Place:
    """A process of Python's, ready at once."""
    return Place("one", [sys.executable, "-c", script], log, dict(os.environ), lambda begun: True)


def test_what_dies_again_and_again_is_started_after_longer_and_longer_pauses(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    dying = place(tmp_path / "log", "raise SystemExit(3)")
    supervisor.add(dying)
    for deaths, pause in enumerate([2, 4, 8, 16, 30, 30], start=1):
        eventually(lambda: supervisor.tend() or dying.process is None)  # type: ignore[func-returns-value]
        assert dying.early_deaths == deaths
        assert 0 < dying.due - time.monotonic() <= pause
        assert f"in {pause} s" in said[-1] and "code 3" in said[-1]
        dying.due = 0.0
        supervisor.tend()
    assert dying.restarts == 6
    supervisor.stop()


def test_what_ends_before_it_was_ever_ready_is_not_started_again(tmp_path: Path) -> None:
    supervisor = Supervisor(print)
    failing = place(tmp_path / "log", "raise SystemExit('no such database')")
    failing.is_ready = lambda begun: False
    supervisor.add(failing)
    with pytest.raises(LablineError, match="one ended with code 1: see .*log"):
        supervisor.wait(["one"])
    assert "no such database" in (tmp_path / "log").read_text()


def test_ctrl_c_whose_exception_python_dropped_still_ends_the_waiting(tmp_path: Path) -> None:
    supervisor = Supervisor(print)
    late = place(tmp_path / "log", "import time; time.sleep(99)")
    late.is_ready = lambda begun: False
    supervisor.add(late)
    supervisor.interrupted.set()
    with pytest.raises(KeyboardInterrupt):
        supervisor.wait(["one"])
    supervisor.stop()


def test_what_a_killed_supervisor_left_is_ended_but_no_stranger_with_its_number(tmp_path: Path) -> None:
    # A child in a session of its own, as a flow run of a worker is; one of them has lost its worker.
    nested = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], "
    words = [sys.executable, "-c", nested + "start_new_session=True); time.sleep(99)"]
    worker, killed = (subprocess.Popen(words, env=os.environ | {MARK: "ours"}) for _ in range(2))
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(99)"], env=os.environ | {MARK: "theirs"}
    )
    try:
        heads = [psutil.Process(process.pid) for process in (worker, killed)]
        eventually(lambda: all(len(head.children()) == 1 for head in heads))
        family = [process for head in heads for process in everything(head)]
        supervisor = identify(killed.pid)
        killed.kill()
        killed.wait()
        recycled = Process(pid=stranger.pid, started=identify(stranger.pid).started - 3600)
        services = (Service(name="worker", process=identify(worker.pid)), Service(name="gone", process=recycled))
        running = Running(supervisor=supervisor, ready=True, mark="ours", environment={}, services=services)
        write_running(tmp_path, running)
        assert clear_away(tmp_path) == ["worker"]
        assert_gone(family)
        assert stranger.poll() is None
        assert read_running(tmp_path) is None
    finally:
        for process in (worker, killed, stranger):
            process.kill()
            process.wait()


def test_a_state_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text('{"supervisor": ')
    assert read_running(tmp_path) is None
    assert clear_away(tmp_path) == []
