"""What `labline up` keeps running on a storage root: `up.json` there, which every other command reads."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

STATE = "up.json"
LOCK = ".up.lock"  # the operating system's: free as soon as whoever held it is gone, killed or not
MARK = "LABLINE_UP"
SAME_SECONDS = 2.0  # the system's clock is set now and then, and start times are told by it


class Process(BaseModel):
    """A process that can be told from a later one with its number; `started` in seconds since 1970."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float

    @property
    def found(self) -> psutil.Process | None:
        """The running process; None where it has ended, whoever may have its number now."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < SAME_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


class Service(BaseModel):
    """One thing that is kept running.

    `health` is an address that answers 200 when it is ready, empty for what has none; `address` is for people;
    `process` is None for a server that somebody else runs, and while it waits to be started again; `since`, in
    seconds since 1970, is when it became ready, 0 before; `log` is a path.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    address: str = ""
    health: str = ""
    process: Process | None = None
    ready: bool = False
    since: float = 0.0
    restarts: int = 0
    log: str = ""


class Running(BaseModel):
    """All of it; `waiting` are the use cases that are served as soon as they have a version in Production.

    `mark` is the value of MARK in the environment of every process that belongs to it; `environment` are the variables
    with which a command uses its servers.
    """

    model_config = ConfigDict(frozen=True)

    supervisor: Process
    ready: bool
    mark: str
    environment: dict[str, str]
    services: tuple[Service, ...]
    waiting: tuple[str, ...] = ()

    def service(self, name: str) -> Service | None:
        """The one of a name."""
        return next((service for service in self.services if service.name == name), None)


def identify(pid: int) -> Process:
    """A process that runs now; raises psutil.NoSuchProcess where there is none."""
    return Process(pid=pid, started=psutil.Process(pid).create_time())


def write_running(store: Path, running: Running) -> None:
    """Replace the state at once: whoever reads it meets the old one or the new one."""
    written = store / f".{STATE}-{os.getpid()}"
    written.write_text(running.model_dump_json(indent=1))
    written.replace(store / STATE)


def read_running(store: Path) -> Running | None:
    """The last state that was written, whether or not it still runs; None where there is none to be read."""
    try:
        return Running.model_validate_json((store / STATE).read_bytes())
    except (OSError, ValidationError):
        return None


def addresses(store: Path) -> dict[str, str]:
    """The variables with which a command uses the servers that are up on a storage root; none where none are."""
    running = read_running(store)
    if running is None or not running.ready or running.supervisor.found is None:
        return {}
    return running.environment
