"""Workers on one socket: real processes that are killed, hang, break and end, while clients ask."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_versions import write_version

from labline.errors import BadInput, LablineError
from serving import supervisor
from serving.assignment import Assigned, Assignment, write_assignment
from serving.settings import Settings
from serving.supervisor import Workers, listen, pause_after

APPLICATION = "small_versions:create_app"


def environment_of(folder: Path) -> Callable[[str], dict[str, str]]:
    settings = Settings(usecase="bright", store=folder, folder=folder, feedback="sqlite://", shutdown_timeout=5)
    return lambda name: dict(os.environ) | settings.to_environment() | {"PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_version(tmp_path / "1", contrast=0.01)
    write_assignment(tmp_path, Assignment("production", Assigned("1", "1")))
    return tmp_path


class Service:
    """Workers that are tended by a thread."""

    def __init__(self, folder: Path, workers: int, application: str = APPLICATION) -> None:
        listening = listen("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        names = [str(number) for number in range(workers)]
        self.workers = Workers(listening, names, environment_of(folder), application, grace_seconds=5)
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._tend, daemon=True)

    def start(self) -> None:
        self.workers.start()
        self.thread.start()

    def stop(self) -> None:
        self.ending.set()
        if self.thread.is_alive():
            self.thread.join()
        self.workers.stop()

    def _tend(self) -> None:
        while not self.ending.is_set():
            self.workers.tend()

    def ask(self, path: str = "/predict") -> dict[str, Any]:
        with urllib.request.urlopen(self.address + path, timeout=20) as response:
            answered: dict[str, Any] = json.loads(response.read())
        return answered

    def ask_until_answered(self) -> dict[str, Any]:
        """As a client that asks again where its connection was cut; at most ten times."""
        for _ in range(10):
            with contextlib.suppress(OSError):
                return self.ask()
        raise AssertionError("ten requests in a row failed")


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    started = Service(folder, workers=1)
    started.start()
    yield started
    started.stop()


def test_a_killed_worker_is_replaced_and_clients_that_ask_again_see_no_failure(folder: Path) -> None:
    service = Service(folder, workers=2)
    service.start()
    seen: set[int] = set()
    failures: list[BaseException] = []
    ending = threading.Event()

    def client() -> None:
        try:
            while not ending.is_set():
                answered = service.ask_until_answered()
                assert answered["version"] == "1"
                seen.add(answered["process"])
        except BaseException as error:
            failures.append(error)

    clients = [threading.Thread(target=client) for _ in range(4)]
    try:
        for thread in clients:
            thread.start()
        for _ in range(2):
            victim = service.ask_until_answered()["process"]
            known = set(seen)
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda known=known: bool(seen - known), "a replacement answers")
    finally:
        ending.set()
        for thread in clients:
            thread.join()
        service.stop()

    assert not failures
    assert not [process for process in seen if psutil.pid_exists(process)], "no worker is left behind"


def test_requests_wait_in_the_socket_while_the_only_worker_is_dead(service: Service) -> None:
    first = service.ask()["process"]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(first), "the worker is gone")

    # Sent after the death and answered by the replacement: not one is refused or cut.
    assert service.ask()["process"] != first


def test_a_worker_that_hangs_is_replaced(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SILENT_SECONDS", 2.5)
    first = service.ask()["process"]
    os.kill(first, signal.SIGSTOP)

    assert service.ask()["process"] != first
    assert not psutil.pid_exists(first)


def test_a_worker_that_dies_again_and_again_is_started_ever_more_seldom(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with pytest.raises((urllib.error.URLError, OSError)):
            service.ask("/die")
        assert service.ask()["version"] == "1"

    told = [record.getMessage() for record in caplog.records if "ended with code 7" in record.getMessage()]
    assert [message.rpartition("another starts ")[2] for message in told] == ["now", "now", "in 0.5 s"]
    assert [pause_after(deaths) for deaths in (0, 2, 3, 4, 5, 100)] == [0, 0, 0.5, 1, 2, 30]


def test_a_worker_that_cannot_start_ends_the_service_with_the_reason(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    service = Service(folder, workers=1, application="small_versions:no_such_function")
    try:
        with pytest.raises(LablineError, match="worker 0 ended with code 3 before it could answer"):
            service.start()
    finally:
        service.stop()
    assert "no_such_function" in capfd.readouterr().err


def test_a_port_in_use_is_bad_input() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"port {port} cannot be used .*choose another with --port"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70_000), ("203.0.113.1", 0)])
def test_an_address_that_cannot_be_had_is_bad_input(host: str, port: int) -> None:
    with pytest.raises(BadInput, match="cannot be used"):
        listen(host, port)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_address_of_ipv6_will_do() -> None:
    try:
        listening = listen("::1", 0)
    except BadInput as refused:
        pytest.skip(f"this machine has no IPv6 loopback: {refused}")
    listening.close()


def test_workers_end_when_their_supervisor_is_killed(folder: Path) -> None:
    script = (
        "from test_supervisor import Service; from pathlib import Path; import sys, time\n"
        f"service = Service(Path({str(folder)!r}), workers=1)\nservice.start()\n"
        "print(service.ask()['process'], flush=True)\ntime.sleep(600)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())])
    supervisor = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE
    )
    assert supervisor.stdout is not None
    worker = psutil.Process(int(supervisor.stdout.readline()))
    supervisor.kill()
    supervisor.wait()

    _, left = psutil.wait_procs([worker], timeout=20)
    for process in left:
        process.kill()
    assert not left


def wait_for(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, f"not within two minutes: {what}"
        time.sleep(0.02)
