"""Keeping processes running: each is started, watched until it is ready, and started again when it dies."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.processes import READY_WITHIN_SECONDS, start, stop
from labline.errors import LablineError
from tasks.running import Process, Service, identify

HEALTHY_SECONDS = 10.0  # what was ready for so long died of something new
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0


@dataclass
class Place:
    """What is to be kept running, and the process that has the place now.

    `is_ready` is asked with the moment when the process was started, in seconds since 1970; `grace_seconds` is what
    it gets to end. `since` is when it became ready; `due` is of the monotonic clock.
    """

    name: str
    command: list[str]
    log: Path
    environment: Mapping[str, str]
    is_ready: Callable[[float], bool]
    address: str = ""
    health: str = ""
    grace_seconds: float = 5.0
    process: subprocess.Popen[bytes] | None = None
    identity: Process | None = None
    begun: float = 0.0
    since: float = 0.0
    restarts: int = 0
    early_deaths: int = 0
    due: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether the process that runs now has said so."""
        return self.since > 0

    def described(self) -> Service:
        """As others are told of it."""
        return Service(
            name=self.name,
            address=self.address,
            health=self.health,
            process=self.identity,
            ready=self.ready,
            since=self.since,
            restarts=self.restarts,
            log=str(self.log),
        )


@dataclass
class Supervisor:
    """Places in the order in which they were added; they end in the opposite one.

    `said` is told what happens; once `interrupted` is set, waiting ends with KeyboardInterrupt.
    """

    said: Callable[[str], None]
    on_change: Callable[[], None] = lambda: None
    interrupted: threading.Event = field(default_factory=threading.Event)
    places: dict[str, Place] = field(default_factory=dict)

    def add(self, place: Place) -> None:
        """Start something and keep it running from now on."""
        self.places[place.name] = place
        self._start(place)
        self.on_change()

    def wait(self, names: Iterable[str]) -> None:
        """Wait until all of them are ready; raises LablineError for one that ends or is not ready in time.

        At the beginning that is somebody's mistake, and starting it again would hide it.
        """
        waited = [self.places[name] for name in names]
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while not all(place.ready for place in waited):
            self.heed()
            for place in waited:
                code = place.process.poll() if place.process else None
                if code is not None:
                    raise LablineError(f"{place.name} ended with code {code}: see {place.log}")
                self._see_whether_ready(place)
            if time.monotonic() > deadline:
                late = ", ".join(place.name for place in waited if not place.ready)
                raise LablineError(f"{late}: not ready within {READY_WITHIN_SECONDS} s, see {waited[0].log.parent}")
            time.sleep(0.1)

    def heed(self) -> None:
        """Raise the KeyboardInterrupt that is due.

        Where Ctrl-C comes while Python calls something back, as at the end of an import, what its handler raises is
        dropped: https://docs.python.org/3/library/signal.html#note-on-signal-handlers-and-exceptions.
        """
        if self.interrupted.is_set():
            raise KeyboardInterrupt

    def tend(self) -> None:
        """Look at everything once, and start again what has died."""
        for place in self.places.values():
            if place.process is None:
                if time.monotonic() >= place.due:
                    place.restarts += 1
                    self._start(place)
                    self.on_change()
            elif place.process.poll() is not None:
                self._bury(place, place.process.returncode)
            else:
                self._see_whether_ready(place)

    def stop(self) -> None:
        """End everything, what was added last first: a flow run still tells the server how it ended."""
        for place in reversed(self.places.values()):
            if place.process is not None:
                stop({place.name: place.process}, place.grace_seconds)

    def _start(self, place: Place) -> None:
        place.begun, place.since = time.time(), 0.0
        place.process = start(place.command, place.log, place.environment)
        try:
            place.identity = identify(place.process.pid)
        except psutil.NoSuchProcess:
            place.identity = None  # it has ended already, which is seen at the next look

    def _see_whether_ready(self, place: Place) -> None:
        if not place.ready and place.is_ready(place.begun):
            place.since = time.time()
            where = f"  {place.address}" if place.address else ""
            self.said(f"ready  [bold]{place.name:<12}[/]{place.since - place.begun:5.1f} s{where}")
            self.on_change()

    def _bury(self, place: Place, code: int) -> None:
        """Take note of a death, clear away what the dead one left, and say when another starts."""
        lived = time.time() - place.since if place.ready else 0.0
        place.early_deaths = 0 if lived > HEALTHY_SECONDS else place.early_deaths + 1
        pause = min(FIRST_PAUSE * 2**place.early_deaths, LONGEST_PAUSE) if place.early_deaths else 0.0
        if place.process is not None:
            stop({place.name: place.process})
        place.process, place.identity, place.since = None, None, 0.0
        place.due = time.monotonic() + pause
        when = f"in {pause:g} s" if pause else "now"
        self.said(f"[red]ended[/]  [bold]{place.name}[/] with code {code}: starts again {when} (see {place.log})")
        self.on_change()
