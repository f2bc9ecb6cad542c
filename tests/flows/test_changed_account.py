"""The account of a Prefect server is changed while a worker runs: it ends, says why, and with the new one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from free_ports import free_ports
from small_runs import command, embedded

from flows.processes import start, stop, wait_until_ready
from tasks.secrets import write_secrets

OLD, NEW = "labline:planted-at-first", "labline:planted-afterwards"


@dataclass
class Server:
    """A Prefect server of the test's own, which can be started anew with another account."""

    folder: Path
    port: int
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, account: str) -> None:
        own = {"PREFECT_HOME": str(self.folder / "prefect"), "PREFECT_SERVER_API_AUTH_STRING": account}
        words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        log = self.folder / "prefect.log"
        self.running["prefect"] = start(words, log, embedded(self.folder) | own)
        wait_until_ready("prefect", f"{self.address}/api/health", self.running["prefect"], str(log))

    def kill(self) -> None:
        os.killpg(self.running["prefect"].pid, signal.SIGKILL)
        self.running["prefect"].wait()

    def workers(self, account: str) -> list[str]:
        """The names of the workers that it has heard of."""
        user, _, password = account.partition(":")
        page = f"{self.address}/api/work_pools/local/workers/filter"
        answer = httpx.post(page, json={}, auth=(user, password), timeout=60).raise_for_status()
        return [worker["name"] for worker in answer.json()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, free_ports(1)[0])
    try:
        made.start(OLD)
        yield made
    finally:
        stop(made.running)


def eventually(holds: Callable[[], bool], told: Callable[[], str]) -> None:
    deadline = time.monotonic() + 180
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)


def test_a_worker_ends_and_comes_back_with_the_new_account(server: Server, tmp_path: Path) -> None:
    user, _, password = OLD.partition(":")
    pool = {"name": "local", "type": "process"}
    httpx.post(f"{server.address}/api/work_pools/", json=pool, auth=(user, password)).raise_for_status()
    secrets, log = tmp_path / "secrets.env", tmp_path / "worker.log"
    own = {"PREFECT_API_URL": f"{server.address}/api", "LABLINE_SECRETS": str(secrets)}
    own |= {"PREFECT_WORKER_WEBSERVER_PORT": str(free_ports(1)[0]), "PREFECT_WORKER_QUERY_SECONDS": "0.5"}
    environment = embedded(tmp_path / "store") | own
    running: dict[str, subprocess.Popen[bytes]] = {}

    def work() -> None:
        running["worker"] = start(command("worker", "--pool", "local"), log, environment)

    try:
        write_secrets(secrets, {"PREFECT_API_AUTH_STRING": OLD})
        work()
        eventually(lambda: len(server.workers(OLD)) == 1, log.read_text)

        server.kill()
        server.start(NEW)
        eventually(lambda: running["worker"].poll() is not None, log.read_text)
        assert running["worker"].returncode == 1  # whatever keeps it running starts it again
        assert "401 Unauthorized" in log.read_text()

        work()
        assert running["worker"].wait(180) == 2
        (said,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
        assert f"the Prefect server at {server.address} refuses the account in PREFECT_API_AUTH_STRING" in said

        write_secrets(secrets, {"PREFECT_API_AUTH_STRING": NEW})
        work()
        eventually(lambda: len(server.workers(NEW)) == 2, log.read_text)
        assert "planted" not in log.read_text()
    finally:
        stop(running)
