"""Prefect's background services on a database that has no tables: the process ends, rather than to go on without them.

On a whole one, `test_production_profile.py` sees that events start flows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_ports
from small_runs import embedded

from flows.postgres import DEBIAN, Postgres
from flows.processes import start, stop
from flows.redis import Redis

pytestmark = pytest.mark.skipif(
    not (list(DEBIAN.glob("*/bin/initdb")) or shutil.which("initdb")) or not shutil.which("redis-server"),
    reason="needs apt-get install postgresql redis-server",
)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of the services, with an empty database behind them."""
    ports = free_ports(2)
    postgres, redis = Postgres(tmp_path / "pg", ports[0], "first"), Redis(tmp_path / "redis", ports[1], "second")
    postgres.initialise()
    redis.write_configuration()
    servers = {"postgres": postgres, "redis": redis}
    running = {name: start(it.command(), tmp_path / f"{name}.log", os.environ) for name, it in servers.items()}
    try:
        while not all(server.answers() for server in servers.values()):
            assert all(process.poll() is None for process in running.values())
            time.sleep(0.1)
        postgres.make_databases({"prefect": "third"})
        database = {"DRIVER": "postgresql+asyncpg", "HOST": "127.0.0.1", "PORT": str(ports[0]), "USER": "prefect"}
        database |= {"NAME": "prefect", "PASSWORD": "third"}
        own = {f"PREFECT_SERVER_DATABASE_{name}": value for name, value in database.items()}
        yield embedded(tmp_path) | own | redis.prefect_environment() | {"PREFECT_HOME": str(tmp_path / "prefect")}
    finally:
        stop(running, 20)


def test_it_ends_with_the_service_that_cannot_begin(environment: dict[str, str]) -> None:
    command = [sys.executable, "-P", "-m", "flows.background"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ReactiveTriggers has ended, and so does this process"
    assert 'relation "automation" does not exist' in done.stderr
    assert "third" not in done.stderr
