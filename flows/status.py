"""`labline status`: what `labline up` keeps running on this storage root, asked just now."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from flows.console import print_json_line
from flows.processes import answers
from tasks.environment import load_environment
from tasks.running import Running, Service, read_running


def run_status(json: bool) -> None:
    """Print what is up and whether it answers; exits with 1 where nothing is up or something is not ready."""
    store = load_environment()
    console = Console(stderr=json, highlight=False, soft_wrap=True)
    running = read_running(store)
    if running is None:
        console.print("nothing is up on this storage root: labline up")
        if json:
            print_json_line({"up": False, "ready": False, "services": []})
        sys.exit(1)
    up = running.supervisor.found is not None
    seen = _looked_at(running)
    console.print(service_table(seen))
    if not up:
        console.print(
            f"labline up (process {running.supervisor.pid}) is gone and looks after none of this any more: "
            "labline down clears away what it left"
        )
    if json:
        print_json_line({"up": up, **summary(seen)})
    if not (up and seen.ready):
        sys.exit(1)


def service_table(running: Running) -> Table:
    """What, where, since when."""
    table = Table("what", Column("address", no_wrap=True), "process", "ready", "since", "restarts")
    for service in running.services:
        process = str(service.process.pid) if service.process else "-"
        ready = "[green]yes[/]" if service.ready else "[red]no[/]"
        table.add_row(
            service.name, service.address or "-", process, ready, _moment(service.since), str(service.restarts)
        )
    return table


def summary(running: Running) -> dict[str, Any]:
    """What `labline up --json` and `labline status --json` print: the same, by name."""
    return {
        "ready": running.ready,
        "pid": running.supervisor.pid,
        "services": {service.name: _told(service) for service in running.services},
        "waiting": list(running.waiting),
    }


def _told(service: Service) -> dict[str, Any]:
    pid = service.process.pid if service.process else None
    return service.model_dump(exclude={"name", "health", "process"}) | {"pid": pid}


def _moment(at: float) -> str:
    """A moment of today by its time, another by its day."""
    moment = datetime.fromtimestamp(at).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M:%S" if today else "%Y-%m-%d") if at else "-"


def _looked_at(running: Running) -> Running:
    """The same, with what is ready just now: alive and, where it has a page for that, answering."""
    with ThreadPoolExecutor() as pool:
        ready = list(pool.map(_is_ready, running.services))
    services = tuple(
        service.model_copy(update={"ready": now, "since": service.since if now else 0.0})
        for service, now in zip(running.services, ready, strict=True)
    )
    return running.model_copy(update={"ready": running.ready and all(ready), "services": services})


def _is_ready(service: Service) -> bool:
    if service.process is not None and service.process.found is None:
        return False
    return answers(service.health) if service.health else service.ready
