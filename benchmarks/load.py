"""The load generator: so many keep-alive HTTP/1.1 connections, each sending its next request on its last answer.

As cheap as Python allows, for it shares the machine with the server it measures: requests are bytes made
beforehand, and of an answer only the status, the length and, now and then, the content are looked at.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np

from labline.errors import LablineError

CHECKED = 64  # one answer in so many is read; the status of each is
PATIENCE = 30.0  # seconds without an answer after which a server counts as hung
END_OF_HEAD = b"\r\n\r\n"
LENGTH = b"content-length:"

Reads = Callable[[bytes], Sequence[float]]


@dataclass(frozen=True)
class Load:
    """What one closed-loop run saw: requests a second, latencies in milliseconds, and what went wrong.

    `errors` counts answers that were no 200 or said something else than expected, and connections that broke;
    `first_error` quotes the first of them.
    """

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    checked: int
    errors: int
    first_error: str = ""


@dataclass(frozen=True)
class Target:
    """A server and how it is asked: its port on loopback, whole requests, and what each should answer.

    `requests[i]` is answered by `expected[i]`, which `read` finds in the answer's body, within `tolerance`.
    """

    port: int
    requests: Sequence[bytes]
    expected: Sequence[Sequence[float]]
    read: Reads
    tolerance: float = 1e-4

    def mistake(self, which: int, body: bytes) -> str:
        """What is wrong with the body that answered request number `which`; empty where nothing is."""
        try:
            found = np.asarray(self.read(body), dtype=float)
        except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
            return f"unreadable answer ({type(error).__name__}: {error}): {body[:300]!r}"
        expected = np.asarray(self.expected[which], dtype=float)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=self.tolerance):
            return f"wrong answer: expected {expected.round(4).tolist()}, got {body[:300]!r}"
        return ""


def request(path: str, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> bytes:
    """A whole POST request, ready to be sent as it is."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def drive(target: Target, concurrency: int, seconds: float) -> Load:
    """Keep `concurrency` requests in flight for so many seconds; raises LablineError where no answer comes."""
    import uvloop

    gc.disable()  # a collection in this process would count as the server's latency
    try:
        return uvloop.run(_drive(target, concurrency, seconds))
    finally:
        gc.enable()


async def _drive(target: Target, concurrency: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    run = _Run(target, loop.create_future())
    try:
        for number in range(concurrency):
            await loop.create_connection(partial(_Connection, run, number), "127.0.0.1", target.port)
    except OSError as error:
        raise LablineError(f"nothing answers on port {target.port}: {error}") from error
    started = time.perf_counter()
    run.until = started + seconds
    for connection in run.connections:
        connection.send()
    try:
        await asyncio.wait_for(run.finished, seconds + PATIENCE)
    except TimeoutError:
        raise LablineError(
            f"port {target.port} stopped answering: {len(run.milliseconds)} answers at concurrency {concurrency}, "
            f"then nothing for {PATIENCE:g} s"
        ) from None
    elapsed = time.perf_counter() - started
    for connection in run.connections:
        connection.transport.close()
    if not run.milliseconds:
        raise LablineError(f"port {target.port} answered nothing: {run.first_error}")
    p50, p99 = np.quantile(run.milliseconds, [0.5, 0.99])
    answered = len(run.milliseconds)
    return Load(answered, answered / elapsed, float(p50), float(p99), run.checked, run.errors, run.first_error)


class _Run:
    """What the connections of one run share."""

    def __init__(self, target: Target, finished: asyncio.Future[None]) -> None:
        self.target = target
        self.finished = finished
        self.until = 0.0
        self.connections: list[_Connection] = []
        self.milliseconds: list[float] = []
        self.checked = self.errors = self.idle = 0
        self.first_error = ""

    def fail(self, what: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or what

    def rest(self) -> None:
        """One more connection has got its last answer."""
        self.idle += 1
        if self.idle == len(self.connections) and not self.finished.done():
            self.finished.set_result(None)


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run, number: int) -> None:
        self.run = run
        self.which = number % len(run.target.requests)
        self.transport: asyncio.Transport
        self.received = b""
        self.busy = False
        run.connections.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are, without saying so

    def send(self) -> None:
        self.busy = True
        self.sent = time.perf_counter()
        self.transport.write(self.run.target.requests[self.which])

    def data_received(self, data: bytes) -> None:
        received = self.received + data if self.received else data
        end = received.find(END_OF_HEAD)
        if end < 0:
            self.received = received
            return
        if (length := _length(received, end)) is None:
            self.run.fail(f"an answer without Content-Length: {received[:300]!r}")
            self.transport.abort()
            return
        body = end + len(END_OF_HEAD)
        if len(received) < body + length:
            self.received = received
            return
        self.received = b""
        self._answered(received, body)

    def _answered(self, received: bytes, body: int) -> None:
        run, now = self.run, time.perf_counter()
        run.milliseconds.append(1e3 * (now - self.sent))
        if received[9:12] != b"200":
            run.fail(repr(received[:500]))
        elif len(run.milliseconds) % CHECKED == 1:
            run.checked += 1
            if mistake := run.target.mistake(self.which, received[body:]):
                run.fail(mistake)
        self.which = (self.which + 1) % len(run.target.requests)
        self.busy = False
        if now < run.until:
            self.send()
        else:
            run.rest()

    def connection_lost(self, error: Exception | None) -> None:
        if self.busy:
            self.run.fail(f"the connection broke: {error}")
            self.run.rest()


def _length(received: bytes, end: int) -> int | None:
    """The Content-Length of an answer whose head ends at `end`."""
    start = received.find(LENGTH, 0, end)
    if start < 0:
        start = received[:end].lower().find(LENGTH)
    if start < 0:
        return None
    start += len(LENGTH)
    return int(received[start : received.index(b"\r", start)])


def named(key: str) -> Reads:
    """Reads the numbers under a key of a JSON object, be they a list or the values of an object."""

    def read(body: bytes) -> Sequence[float]:
        found = json.loads(body)[key]
        return list(found.values()) if isinstance(found, dict) else found

    return read
