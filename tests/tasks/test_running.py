"""What other commands know of a `labline up`: its servers, as long as it is up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.running import Process, Running, Service, addresses, identify, read_running, write_running

SERVERS = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "PREFECT_API_URL": "http://127.0.0.1:4200/api"}


def running(supervisor: Process, ready: bool = True) -> Running:
    services = (Service(name="mlflow", address=SERVERS["MLFLOW_TRACKING_URI"]), Service(name="worker"))
    return Running(supervisor=supervisor, ready=ready, mark="m", environment=SERVERS, services=services)


def gone() -> Process:
    """A process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = identify(ended.pid)
    ended.communicate(b"\n")
    return known


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = running(identify(os.getpid()))
    write_running(tmp_path, written)
    assert read_running(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == ["up.json"]


def test_its_servers_are_used_while_it_is_up(tmp_path: Path) -> None:
    write_running(tmp_path, running(identify(os.getpid())))
    assert addresses(tmp_path) == SERVERS


@pytest.mark.parametrize("why", ["none was ever up", "it is only starting", "it was killed", "its number is another's"])
def test_its_servers_are_not_used_where(why: str, tmp_path: Path) -> None:
    here = identify(os.getpid())
    states = {
        "it is only starting": running(here, ready=False),
        "it was killed": running(gone()),
        "its number is another's": running(Process(pid=here.pid, started=here.started - 60)),
    }
    if why in states:
        write_running(tmp_path, states[why])
    assert addresses(tmp_path) == {}
