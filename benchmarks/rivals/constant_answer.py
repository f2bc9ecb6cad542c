"""A server that does nothing: python constant_answer.py PORT LENGTH, LENGTH being that of every request in bytes.

What the load generator reaches with it is the most that it could show of any server.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

BODY = b'{"probabilities":[1.0]}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


class _Constant(asyncio.Protocol):
    """Answers what the load generator sends: one whole request of a known length after the other."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.missing = length

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing <= 0:
            self.missing = self.length
            self.transport.write(ANSWER)


async def _serve(port: int, length: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Constant(length), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
