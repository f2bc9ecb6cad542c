"""uvicorn's HTTP protocol with bounds that it does not have, and with answers that leave in one piece.

Bounded are how long a client may take for a request's headers, and how long these may be: a client that sends a byte
a minute would hold a connection for ever. An answer's head and body are one write to the kernel instead of two: one
packet, which wakes the client once.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 32_768  # bytes of request line and headers


class TooLong(Exception):
    """Headers beyond LARGEST_HEAD; the parser ends the connection with 400."""


class JoiningTransport:
    """A transport that gathers what is written in one turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send with what else is written in this turn."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send what was written, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `head_seconds` is what a request's headers may take, and the first byte of a new connection."""

    head_seconds = 10.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there, and has to say something."""
        super().connection_made(JoiningTransport(transport, self.loop))  # type: ignore[arg-type]
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left."""
        self._rest()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; the clock runs while they are no whole head."""
        super().data_received(data)
        # Any byte stops uvicorn's keep-alive clock, also one that begins no request.
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._in_head or (not answering and self.timeout_keep_alive_task is None):
            self._wait()
        else:
            self._rest()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count(name)
        self._count(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """All headers are here: what follows is the endpoint's to wait for."""
        self._in_head = False
        super().on_headers_complete()

    def _count(self, part: bytes) -> None:
        self._head_bytes += len(part)
        if self._head_bytes > LARGEST_HEAD:
            raise TooLong

    def _wait(self) -> None:
        if self._patience is None and not self.transport.is_closing():
            self._patience = self.loop.call_later(self.head_seconds, self._give_up)

    def _rest(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            self.transport.close()


def bounded(head_seconds: float) -> type[BoundedProtocol]:
    """The protocol with another patience, for `uvicorn.Config(http=…)`."""
    return type("BoundedProtocol", (BoundedProtocol,), {"head_seconds": head_seconds})
