"""Starting processes that outlive a call, waiting for them, and ending them with everything they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import httpx
import psutil

from labline.errors import BadInput, LablineError

READY_WITHIN_SECONDS = 120
GRACE_SECONDS = 5.0
LOOK_SECONDS = 2.0  # a health page that takes longer is not ready


def start(
    command: list[str], log: Path, environment: Mapping[str, str], folder: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own: Ctrl-C in a terminal is for whoever started it to answer.

    What it prints is appended to `log`; it runs in `folder`, by default in this process's.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )


@cache
def http() -> httpx.Client:
    """The client of whoever asks again and again, in any thread: making one costs more than twenty requests."""
    return httpx.Client(timeout=LOOK_SECONDS)


def answers(address: str) -> bool:
    """Whether a health page says yes just now."""
    try:
        return http().get(address).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until_ready(name: str, address: str, server: subprocess.Popen[bytes], log: str) -> None:
    """Wait for a server's health page; raises LablineError where it ends or stays silent."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise LablineError(f"the {name} server ended with code {server.returncode}: see {log}")
        if answers(address):
            return
        time.sleep(0.2)
    raise LablineError(f"the {name} server did not answer at {address} within {READY_WITHIN_SECONDS} s: see {log}")


def stop(running: Mapping[str, subprocess.Popen[bytes]], grace_seconds: float = GRACE_SECONDS) -> None:
    """End processes that this one started and everything that they started, politely, then firmly."""
    end(_found(server.pid for server in running.values() if server.poll() is None), grace_seconds)
    for server in running.values():
        _kill_group(server.pid)  # a head that ended by itself may have left its helpers
        server.wait()


def end(heads: Iterable[psutil.Process], grace_seconds: float = GRACE_SECONDS) -> None:
    """End process groups by their heads, with all descendants: a flow run of a worker has a session of its own.

    Descendants hear of it too, so that a flow run can tell the server how it ended. What is left after the grace,
    in seconds, is killed.
    """
    heads = list(heads)
    family = heads + [child for head in heads for child in _descendants(head)]
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(family, timeout=grace_seconds)
    for head in heads:
        _kill_group(head.pid)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=GRACE_SECONDS)


def marked(variable: str, value: str) -> list[psutil.Process]:
    """Every other process of this user that was started with this variable set so, by whomever: children inherit it.

    So a flow run is found whose worker was killed: it has another parent now, and never had the worker's session.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                found.append(process)
    return found


def refuse_taken_port(what: str, port: int, option: str) -> None:
    """Raise BadInput, naming the option that chooses another, where a port of loopback is in use."""
    problem = taken(port)
    if problem:
        raise BadInput(
            f"port {port} cannot be used for {what} ({problem}): stop what uses it, or choose another port "
            f"with {option}"
        )


def taken(port: int) -> str:
    """Why a port of loopback cannot be had; empty where it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: a port just left is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def free_ports(count: int) -> list[int]:
    """So many different ports of loopback that nobody uses; all are held until the last is found."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _found(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def _descendants(head: psutil.Process) -> list[psutil.Process]:
    try:
        return head.children(recursive=True)
    except psutil.Error:
        return []


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
