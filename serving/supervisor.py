"""Keeping so many worker processes on one listening socket.

The socket is opened here, before any worker, and stays open while workers come and go: requests that arrive while
one is dead wait in the socket's queue for another one, or for its replacement. uvicorn's own supervisor does the same,
but looks every half second only, takes a worker that cannot start for the end of the service, and starts one that
dies at once again and again without a pause.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from labline.errors import BadInput, LablineError
from serving.worker import APPLICATION, BACKLOG

logger = logging.getLogger(__name__)

SILENT_SECONDS = 30.0  # a worker whose event loop has not turned for so long hangs, and is replaced
START_SECONDS = 180.0  # a large model is loaded before the first turn
HEALTHY_SECONDS = 10.0  # who answered and lived so long died of something new
FORGIVEN = 2  # early deaths in a row that may be somebody's hand; after them, pauses grow
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
LOOK_SECONDS = 0.25  # a death is seen at once, on the line; this is for pauses and silence


@dataclass
class Worker:
    """One place on the socket, and the process that has it now; times are of the monotonic clock, in seconds."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    line: socket.socket | None = None
    born: float = 0.0
    heard: float = 0.0
    ready: bool = False
    early_deaths: int = 0
    due: float = 0.0


@dataclass
class Workers:
    """The workers of a service. `environment` gives a worker's variables for its name."""

    listening: socket.socket
    names: Sequence[str]
    environment: Callable[[str], Mapping[str, str]]
    application: str = APPLICATION
    grace_seconds: float = 25.0
    places: list[Worker] = field(default_factory=list)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def start(self) -> None:
        """Start all workers and wait until one accepts requests; raises LablineError where one ends before that."""
        self.places = [Worker(name) for name in self.names]
        for place in self.places:
            self._start(place)
        while not any(place.ready for place in self.places):
            self._listen()
            for place in self.places:
                code = place.process.poll() if place.process else None
                if code is not None:
                    raise LablineError(f"worker {place.name} ended with {_ending(code)} before it could answer")
                if time.monotonic() - place.born > START_SECONDS:
                    raise LablineError(f"worker {place.name} did not come up within {START_SECONDS:g} s")

    def tend(self) -> None:
        """Wait a moment for something to happen, and replace the workers that died or hang."""
        self._listen()
        for place in self.places:
            self._tend(place, time.monotonic())

    def stop(self) -> None:
        """Let every worker finish what it has, and end those that do not within the grace; closes the socket."""
        self.listening.close()
        for place in self.places:
            if place.process is not None and place.process.poll() is None:
                place.process.terminate()
        deadline = time.monotonic() + self.grace_seconds
        try:
            for place in self.places:
                if place.process is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        place.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        finally:
            for place in self.places:
                self._end(place)

    def _tend(self, place: Worker, now: float) -> None:
        if place.process is None:
            if now >= place.due:
                self._replace(place, now)
            return
        patience = SILENT_SECONDS if place.ready else START_SECONDS
        code = place.process.poll()
        if code is None and now - place.heard > patience:
            logger.error("worker %s has been silent for %.0f s and is ended", place.name, now - place.heard)
            place.process.kill()
            code = place.process.wait()
        if code is None:
            return
        lived = now - place.born
        place.early_deaths = 0 if place.ready and lived > HEALTHY_SECONDS else place.early_deaths + 1
        pause = pause_after(place.early_deaths)
        place.due = now + pause
        when = f"in {pause:g} s" if pause else "now"
        logger.error("worker %s ended with %s after %.1f s; another starts %s", place.name, _ending(code), lived, when)
        self._end(place)
        if not pause:
            self._replace(place, now)

    def _replace(self, place: Worker, now: float) -> None:
        """Start a worker again; where the system gives no process or memory now, later."""
        try:
            self._start(place)
        except OSError as error:
            place.due = now + LONGEST_PAUSE
            logger.error("worker %s cannot be started (%s); again in %g s", place.name, error, LONGEST_PAUSE)

    def _start(self, place: Worker) -> None:
        ours, theirs = socket.socketpair()
        descriptors = (self.listening.fileno(), theirs.fileno())
        command = [sys.executable, "-P", "-m", "serving.worker"]  # -P: the user's folder may have a `serving` too
        command += [f"--socket={descriptors[0]}", f"--line={descriptors[1]}", f"--app={self.application}"]
        try:
            # A group of its own: Ctrl-C in a terminal is the supervisor's to answer.
            place.process = subprocess.Popen(
                command,
                env=dict(self.environment(place.name)),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),  # on standard output stands where the service is, and nothing else
                pass_fds=descriptors,
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        place.line, place.ready = ours, False
        place.born = place.heard = time.monotonic()
        self.selector.register(ours, selectors.EVENT_READ, place)

    def _listen(self) -> None:
        """Take in the beats that have come; a death cuts the line, so it ends the waiting too."""
        for key, _ in self.selector.select(LOOK_SECONDS):
            place: Worker = key.data
            beats = place.line.recv(4096) if place.line else b""
            if beats:
                if not place.ready:
                    logger.info("worker %s answers after %.2f s", place.name, time.monotonic() - place.born)
                place.ready, place.heard = True, time.monotonic()
            elif place.process is not None:
                self._cut(place)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    place.process.wait(timeout=1)  # the line is cut a moment before the process is gone

    def _cut(self, place: Worker) -> None:
        if place.line is not None:
            self.selector.unregister(place.line)
            place.line.close()
            place.line = None

    def _end(self, place: Worker) -> None:
        self._cut(place)
        if place.process is not None:
            if place.process.poll() is None:
                logger.error("worker %s did not finish in time and is ended", place.name)
                place.process.kill()
            place.process.wait()
            place.process = None


def listen(host: str, port: int) -> socket.socket:
    """Open the socket that all workers answer on; 0 is any free port. Raises BadInput where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        told = getattr(error, "strerror", None) or str(error)
        raise BadInput(
            f"{host} port {port} cannot be used ({told}): stop what uses it, or choose another with --port"
        ) from None
    listening.set_inheritable(True)
    return listening


def pause_after(early_deaths: int) -> float:
    """Seconds until a worker is started again after so many early deaths in a row."""
    return 0.0 if early_deaths <= FORGIVEN else min(FIRST_PAUSE * 2 ** (early_deaths - FORGIVEN - 1), LONGEST_PAUSE)


def _ending(code: int) -> str:
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
