"""`labline down`: what `labline up` started on this storage root ends, and so does what a killed one has left."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from rich.console import Console

from flows.console import print_json_line
from flows.processes import end, marked
from labline.errors import LablineError
from tasks.environment import load_environment
from tasks.running import LOCK, MARK, STATE, read_running

DOWN_WITHIN_SECONDS = 120.0


def run_down(json: bool) -> None:
    """Take everything down and wait until it is; says so where nothing is up. Raises LablineError where it stays."""
    store = load_environment()
    console = Console(stderr=json, highlight=False, soft_wrap=True)
    with console.status("taking it down"):
        ended = _end_supervisor(store) + _end_left(store)
    console.print(f"down: {', '.join(ended)} ended" if ended else "nothing is up on this storage root")
    if json:
        print_json_line({"ended": ended})


def clear_away(store: Path) -> list[str]:
    """End what a supervisor that was killed has left running, by the state that it wrote; returns the names.

    The caller holds the lock, so that no living supervisor's services are met.
    """
    left = read_running(store)
    found = {service.name: service.process.found for service in left.services if service.process} if left else {}
    running = {name: process for name, process in found.items() if process is not None}
    end(running.values())
    if left:
        end(marked(MARK, left.mark))
    (store / STATE).unlink(missing_ok=True)
    return list(running)


def _end_supervisor(store: Path) -> list[str]:
    """Ask it to end, which it does with everything that it started; returns the names."""
    running = read_running(store)
    supervisor = running.supervisor.found if running else None
    if running is None or supervisor is None:
        return []
    try:
        supervisor.terminate()
        supervisor.wait(timeout=DOWN_WITHIN_SECONDS)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied:
        raise LablineError(f"labline up is process {supervisor.pid} of another user: it is theirs to end") from None
    except psutil.TimeoutExpired:
        supervisor.kill()
    return [service.name for service in running.services if service.process is not None]


def _end_left(store: Path) -> list[str]:
    lock = FileLock(store / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        time.sleep(1)  # it has only begun, and written no state yet
        raise LablineError("labline up is just starting here: try again in a moment") from None
    try:
        return clear_away(store)
    finally:
        lock.release()
