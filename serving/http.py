"""The little HTTP that the endpoints need, on ASGI itself: a framework's machinery costs more than a small model.

An endpoint is written as `async (Request) -> Answer`. `Endpoint` makes an ASGI application of it: key, body, errors,
metrics, and the answer on the wire. Measured here, what it adds to uvicorn's own work is about 15 µs a request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import orjson
from starlette.types import Receive, Scope, Send

from labline.errors import LablineError
from serving.connections import WHOLE
from serving.limits import Refused
from serving.metrics import Metrics
from serving.security import AUTHENTICATE, SECURE, Guard

logger = logging.getLogger(__name__)

Headers = dict[bytes, bytes]
JSON = b"application/json"
CLOSE = (b"connection", b"close")  # where a body was left unread: the rest of it is not worth waiting for


class Unavailable(LablineError):
    """Nothing is wrong with the request, but now is not the time: told with 503, and when to come again, in seconds."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Room:
    """How many bytes of large bodies may be in hand at once, all connections of a worker together."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, amount: int) -> int:
        """Returns the amount; raises Unavailable where there is not so much room."""
        if amount > self.left:
            raise Unavailable("too much is being sent at once; come again")
        self.left -= amount
        return amount


class Gone(Exception):
    """The client left before it had sent its body."""


@dataclass(slots=True)
class Request:
    """A request with its whole body; header names are lowercase, and `started` is of time.perf_counter()."""

    headers: Headers
    body: bytes
    parameters: dict[str, str]
    started: float

    def text(self, header: bytes) -> str:
        """A header's value; empty where it was not sent."""
        return self.headers.get(header, b"").decode("latin-1")


@dataclass(slots=True)
class Answer:
    """What is sent back, and what the metrics say of it; `afterwards` is called when it has been sent."""

    body: bytes
    status: int = 200
    media: bytes = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    version: str = ""
    role: str = ""
    afterwards: Callable[[], None] | None = None


class Endpoint:
    """An ASGI application that answers one route with `handle`, asked with POST.

    Bodies are at most `limit` bytes, and their last byte has to be here within `seconds`; `room` is for all together.
    """

    def __init__(
        self,
        route: str,
        handle: Callable[[Request], Awaitable[Answer]],
        guard: Guard,
        metrics: Metrics,
        room: Room,
        limit: int,
        seconds: float,
    ) -> None:
        self._route = route
        self._handle = handle
        self._guard = guard
        self._metrics = metrics
        self._room = room
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        started, held = time.perf_counter(), 0
        try:
            headers: Headers = dict(scope["headers"])
            if scope["method"] != "POST":
                answer = problem(405, "POST was expected", (b"allow", b"POST"))
            elif not self._guard.admits(headers):
                answer = problem(401, AUTHENTICATE, (b"www-authenticate", b"Bearer"), CLOSE)
            elif headers.get(b"content-encoding", b"identity") != b"identity":
                answer = problem(415, "content-encoding: none is taken", CLOSE)
            else:
                # A clock costs more than reading what is here already.
                seconds = None if WHOLE in scope else self._seconds
                body, held = await read_body(headers, receive, self._room, self._limit, seconds)
                answer = await self._handle(Request(headers, body, scope.get("path_params", {}), started))
        except Gone:
            self._metrics.count(self._route, 499, "", "")
            return
        except Exception as error:
            answer = told(error)
        finally:
            self._room.left += held
        await respond(send, answer)
        self._metrics.answered(self._route, answer.status, answer.version, answer.role, time.perf_counter() - started)
        if answer.afterwards is not None:
            answer.afterwards()


async def read_body(
    headers: Headers, receive: Receive, room: Room, limit: int, seconds: float | None
) -> tuple[bytes, int]:
    """The whole body, and what it took of the room: nothing where it came in one piece, which is a small one.

    Its last byte has to be here within `seconds`; None does not look at the clock.

    Raises Refused where it is too long or too slow, Gone where the client left, Unavailable where there is no room.
    """
    try:
        declared = int(headers.get(b"content-length", b"0"))
    except ValueError:
        raise Refused(400, "content-length: a number of bytes was expected") from None
    if declared > limit:
        raise Refused(413, f"the body has {declared:,} bytes; at most {limit:,} are taken")
    if seconds is None:
        return await _read(receive, room, limit)
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, room, limit)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {seconds:g} s") from None


async def _read(receive: Receive, room: Room, limit: int) -> tuple[bytes, int]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Gone
    body: bytes = message.get("body", b"")
    return (body, 0) if not message.get("more_body") else await _read_rest(body, receive, room, limit)


async def _read_rest(first: bytes, receive: Receive, room: Room, limit: int) -> tuple[bytes, int]:
    parts, more, held = [first], True, 0
    try:
        held += room.take(len(first))
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            parts.append(message.get("body", b""))
            held += room.take(len(parts[-1]))
            more = message.get("more_body", False)
            if held > limit:
                raise Refused(413, f"the body has more than {limit:,} bytes")
    except BaseException:
        room.left += held
        raise
    return b"".join(parts), held


async def respond(send: Send, answer: Answer) -> None:
    """Send an answer."""
    headers = [
        (b"content-type", answer.media),
        (b"content-length", b"%d" % len(answer.body)),
        *SECURE,
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def problem(status: int, message: str, *headers: tuple[bytes, bytes]) -> Answer:
    """An answer that says what was wrong."""
    return Answer(orjson.dumps({"error": message}), status, headers=list(headers))


def told(error: Exception) -> Answer:
    """What a client is told of an error: never more than was meant for it."""
    if isinstance(error, Refused):
        closing = (CLOSE,) if error.status in (408, 413) else ()
        return problem(error.status, error.message, *closing)
    if isinstance(error, Unavailable):
        return problem(503, str(error), (b"retry-after", b"%d" % error.retry_after))
    logger.error("a request failed", exc_info=error)
    return problem(500, "internal error: the service's log says more")
