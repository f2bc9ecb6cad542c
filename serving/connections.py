"""uvicorn's HTTP protocol with bounds that it does not have, and with answers that leave in one piece.

Bounded are how long a client may take for a request's headers, and how long these may be: a client that sends a byte
a minute would hold a connection for ever. An answer's head and body are one write to the kernel instead of two: one
packet, which wakes the client once. And a request that offers another protocol is answered in this one.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 32_768  # bytes of request line and headers
HEADER_COST = 32  # bytes that a header counts beside its name and value, as in HTTP/2 (RFC 9113, 10.5.1)
WHOLE = "labline.whole"  # in a request's scope, once the last byte of its body is here
FRAMING = (b"content-length", b"transfer-encoding")


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
        self._resuming = False

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
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            # Not logged: anybody could fill the log.
            self.send_400_response("Invalid HTTP request received.")
        # Any byte stops uvicorn's keep-alive clock, also one that begins no request.
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._in_head or (not answering and self.timeout_keep_alive_task is None):
            self._wait()
        else:
            self._rest()

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._resuming:
            self._in_head, self._head_bytes = True, 0
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        if not self._resuming:
            self._count(url)
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if not self._resuming:
            self._count(name)
            self._count(value)
            self._head_bytes += HEADER_COST
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """All headers are here: what follows is the endpoint's to wait for."""
        if self._resuming:
            self._resuming = False
            return
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The last byte of a request is here; where the parser gave up at its head, the body is still to come."""
        if not self.parser.should_upgrade():
            self.scope[WHOLE] = True  # type: ignore[literal-required]  # a key of our own
            super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offered:
                rest = rest[offered.args[0] :]
                self._resume()

    def _resume(self) -> None:
        """Go on with HTTP/1.1 where a client offers another protocol, as Java's does with every request.

        RFC 9110, 7.8, lets a server ignore the offer; httptools stops at the end of the head, and uvicorn then loses
        the body and takes it for the next request (Kludex/uvicorn#2722). A new parser is told the body's framing
        alone, unheard by the rest, and then reads the body and what follows.
        """
        framing = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] in FRAMING)
        self.parser = httptools.HttpRequestParser(self)
        self._resuming = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")

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
