"""The production profile, up on a storage root of its own, with secrets that can be told from everything else."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
from free_ports import free_ports
from small_runs import Ended, command, embedded

from flows.processes import end
from flows.production import MADE
from tasks.running import Running, read_running
from tasks.secrets import read_secrets, write_secrets

PLANTED = "planted"  # in every secret
WITHIN_SECONDS = 180


@dataclass(frozen=True)
class ProductionSite:
    """A storage root on which `labline up --profile production` is called."""

    store: Path
    words: tuple[str, ...]

    def labline(self, *arguments: str, **environment: str) -> Ended:
        """A labline command in a process of its own, as a person on this storage root would type it."""
        environment = embedded(self.store) | environment
        done = subprocess.run(command(*arguments), env=environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        (self.store / "printed.txt").open("a").write(done.stdout + done.stderr)
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The same, not waited for."""
        pipe, environment = subprocess.PIPE, embedded(self.store) | environment
        return subprocess.Popen(command(*arguments), env=environment, stdout=pipe, stderr=pipe, text=True)

    def ended(self, process: subprocess.Popen[str]) -> Ended:
        """How one that was not waited for ends."""
        out, err = process.communicate()
        assert "Traceback" not in err, err
        (self.store / "printed.txt").open("a").write(out + err)
        return Ended(process.returncode, out, err)

    def restart(self, name: str) -> None:
        """Interrupt a server, of which `labline up` then starts another."""
        earlier, before = self.running.service(name), self.process(name)
        assert earlier is not None
        before.send_signal(signal.SIGINT)  # PostgreSQL: whoever is connected is not any more
        eventually(
            lambda: (
                (found := self.running.service(name)) is not None and found.ready and found.restarts > earlier.restarts
            )
        )

    @property
    def running(self) -> Running:
        found = read_running(self.store)
        assert found is not None
        return found

    def address(self, name: str) -> str:
        service = self.running.service(name)
        assert service is not None
        return service.address

    @property
    def secrets(self) -> dict[str, str]:
        """What clients are told."""
        return read_secrets(self.store / "production" / "clients.env")

    @property
    def passwords(self) -> dict[str, str]:
        """Every password there is."""
        return read_secrets(self.store / "production" / "servers.env")

    def prefect(self) -> httpx.Client:
        user, _, password = self.secrets["PREFECT_API_AUTH_STRING"].partition(":")
        return httpx.Client(base_url=f"{self.address('prefect')}/api", auth=(user, password), timeout=60)

    def mlflow(self, method: str, page: str, sent: dict[str, Any]) -> dict[str, Any]:
        """What MLflow's API answers."""
        account = (self.secrets["MLFLOW_TRACKING_USERNAME"], self.secrets["MLFLOW_TRACKING_PASSWORD"])
        given = {"params": sent} if method == "GET" else {"json": sent}
        page = f"{self.address('mlflow')}/api/2.0/mlflow/{page}"
        answer = httpx.request(method, page, auth=account, timeout=60, **given).raise_for_status()  # type: ignore[arg-type]
        loaded: dict[str, Any] = answer.json()
        return loaded

    def process(self, name: str) -> psutil.Process:
        service = self.running.service(name)
        assert service is not None and service.process is not None and service.process.found is not None
        return service.process.found


def eventually(holds: Callable[[], bool], within_seconds: float = WITHIN_SECONDS) -> None:
    deadline = time.monotonic() + within_seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@contextmanager
def production_site(folder: Path) -> Iterator[ProductionSite]:
    """The profile, up; and down again, whatever happens meanwhile."""
    store = folder / "store"
    (store / "mlflow").mkdir(parents=True)
    mlflow, prefect, port = free_ports(3)
    words = ("--profile=production", f"--mlflow-port={mlflow}", f"--prefect-port={prefect}", f"--port={port}")
    site = ProductionSite(store, words)
    write_secrets(store / "production" / "servers.env", {name: f"{PLANTED}-{name}-{uuid4().hex}" for name in MADE})
    up = site.labline("up", "--detach", "--json", *words)
    try:
        assert up.code == 0, up.err + _logs(store)
        yield site
    finally:
        running = read_running(store)
        if running is not None and running.supervisor.found is not None:
            supervisor = running.supervisor.found
            end([supervisor, *supervisor.children(recursive=True)], grace_seconds=20)


def _logs(store: Path) -> str:
    return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in (store / "logs").glob("*.log"))


def text_of(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def told(ended: Ended) -> str:
    """The one line of an error, which is all that a command said at its end."""
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    return line
