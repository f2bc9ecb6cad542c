"""`labline up`: servers, worker, deployments and services of this storage root, until Ctrl-C or `labline down`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from flows.console import print_json_line
from flows.down import clear_away
from flows.processes import start, stop
from flows.site import Site, Wanted
from flows.status import service_table, summary
from labline.errors import BadInput, LablineError, nearest
from tasks.environment import USECASES, load_environment
from tasks.running import LOCK, STATE, Running, read_running

LOOK_SECONDS = 0.25
UP_WITHIN_SECONDS = 300.0
STARTING = "starting MLflow, Prefect, a worker and the services (about a minute)"
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_up(wanted: Wanted, detach: bool, json: bool) -> None:
    """Bring everything up and keep it so until Ctrl-C or, detached, until `labline down`.

    Says so, and does nothing, where it is up already. Raises BadInput for a port that is taken, LablineError where
    something does not come up: what had come up is taken down then.
    """
    store = load_environment()
    console = Console(stderr=json, highlight=False, soft_wrap=True)
    _refuse_unknown(wanted.usecases)
    lock = FileLock(store / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print("up already on this storage root; labline down takes it down")
        running = _wait_until_ready(store, lambda: True)
    else:
        try:
            clear_away(store)
            site = Site(store, wanted, console.print)  # a port that is taken is said here and now
            if not detach:
                _keep_up(site, console, json)
                return
        finally:
            lock.release()
        running = _start_detached(store, wanted, console)
    _show(running, console, json)


def _refuse_unknown(usecases: Sequence[str]) -> None:
    """Raise BadInput for a name that is neither shipped nor registered: it would be waited for in vain."""
    from flows.inspection import registered_names
    from labline.declaration import shipped_names

    shipped = set(shipped_names(USECASES))
    if unknown := [usecase for usecase in usecases if usecase not in shipped]:
        known = shipped | registered_names()
        for usecase in unknown:
            if usecase not in known:
                raise BadInput(f"--usecase {usecase}: no such use case; {nearest(usecase, sorted(known))}")


@contextmanager
def up_meanwhile(store: Path, wanted: Wanted, console: Console) -> Iterator[Running]:
    """Have everything up inside, and take it down afterwards; what is up already is used, and stays."""
    lock = FileLock(store / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print("labline is up already on this storage root: it is used")
        yield _wait_until_ready(store, lambda: True)
        return
    try:
        clear_away(store)
        with _held(Site(store, wanted, console.print), console) as site, _tended(site):
            yield site.described()
    finally:
        lock.release()


def _keep_up(site: Site, console: Console, json: bool) -> None:
    try:
        with _held(site, console):
            _show(site.described(), console, json)
            console.print("Ctrl-C takes it down.")
            while True:
                site.supervisor.heed()
                site.tend()
                time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        console.print("down")


@contextmanager
def _held(site: Site, console: Console) -> Iterator[Site]:
    """A site that has come up, and is taken down however this ends."""

    def interrupt(*_: object) -> None:
        site.supervisor.interrupted.set()
        raise KeyboardInterrupt

    for ending in ENDINGS:  # a closed terminal takes it down as Ctrl-C does; a shell's background job hears it too
        signal.signal(ending, interrupt)
    try:
        with console.status(STARTING):
            site.come_up()
        yield site
    finally:
        for ending in ENDINGS:
            signal.signal(ending, signal.SIG_IGN)  # impatience must not leave half of it running
        console.print("taking everything down")
        site.go_down()
        (site.store / STATE).unlink(missing_ok=True)


@contextmanager
def _tended(site: Site) -> Iterator[None]:
    """Look after a site in a thread."""
    over = threading.Event()

    def tend() -> None:
        while not over.wait(LOOK_SECONDS):
            site.tend()

    tending = threading.Thread(target=tend, name="up", daemon=True)
    tending.start()
    try:
        yield
    finally:
        over.set()
        tending.join()


def _start_detached(store: Path, wanted: Wanted, console: Console) -> Running:
    """Start the same command behind the terminal, and wait until everything is ready."""
    log = store / "logs" / "up.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-P", "-c", "from flows.cli import main; main()", "up", *wanted.options()]
    child = start(command, log, os.environ)
    try:
        with console.status(STARTING):
            return _wait_until_ready(store, lambda: child.poll() is None)
    except LablineError:
        told = [line for line in log.read_text().splitlines() if line.startswith("error: ")] if child.returncode else []
        message = f"it did not come up: {told[-1].removeprefix('error: ') if told else f'see {log}'}"
        raise (BadInput if child.returncode == BadInput.exit_code else LablineError)(message) from None
    except KeyboardInterrupt:
        stop({"up": child}, UP_WITHIN_SECONDS)
        raise


def _wait_until_ready(store: Path, goes_on: Callable[[], bool]) -> Running:
    deadline = time.monotonic() + UP_WITHIN_SECONDS
    while goes_on() and time.monotonic() < deadline:
        running = read_running(store)
        if running is not None and running.ready and running.supervisor.found is not None:
            return running
        time.sleep(LOOK_SECONDS)
    raise LablineError(f"nothing was ready within {UP_WITHIN_SECONDS:g} s: see {store / 'logs'}")


def _show(running: Running, console: Console, json: bool) -> None:
    console.print(service_table(running))
    for usecase in running.waiting:
        console.print(f"{usecase} is served as soon as it is in Production: labline promote {usecase}")
    if json:
        print_json_line(summary(running))
