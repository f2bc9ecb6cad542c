"""Requests that no HTTP library would send, byte by byte: refused or understood, never misunderstood."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections import Counter
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from running_service import KEY, RAW, Running, prepare, running, write_classifier

IMAGE = np.full(64, 200, np.uint8).tobytes()
MEBIBYTE = 2**20
ROOM = 8 * MEBIBYTE
LENGTH = "Content-Length: 64"
CHUNKED = "Transfer-Encoding: chunked"
IN_CHUNKS = b"10\r\n" + IMAGE[:16] + b"\r\n30\r\n" + IMAGE[16:] + b"\r\n0\r\n\r\n"
OFFER = "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk"
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Impatient, and with little room for large bodies."""
    root = tmp_path_factory.mktemp("service")
    settings = prepare(root, production=write_classifier(root / "one"))
    with running(settings, body_timeout=1, keep_alive=1, max_bodies=ROOM) as found:
        yield found


def request(*headers: str, body: bytes = IMAGE, line: str = "POST /predict HTTP/1.1") -> bytes:
    first = (line, "Host: x", f"X-API-Key: {KEY}", f"Content-Type: {RAW}")
    return "\r\n".join([*first, *headers, "", ""]).encode("latin-1") + body


def exchange(service: Running, *parts: bytes) -> bytes:
    """Everything that is answered until the service closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        while more := connection.recv(65_536):
            received += more
    return received


def statuses(answered: bytes) -> list[int]:
    return [int(status) for status in STATUS.findall(answered)]


@pytest.mark.parametrize(
    "sent",
    {
        "length and chunks": request(LENGTH, CHUNKED),
        "two lengths": request(LENGTH, "Content-Length: 10"),
        "negative length": request("Content-Length: -1"),
        "signed length": request("Content-Length: +64"),
        "hexadecimal length": request("Content-Length: 0x40"),
        "length beyond 64 bits": request("Content-Length: 99999999999999999999999"),
        "chunk beyond 64 bits": request(CHUNKED, body=b"FFFFFFFFFFFFFFFFF\r\n"),
        "negative chunk": request(CHUNKED, body=b"-1\r\n"),
        "chunk longer than it says": request(CHUNKED, body=b"10\r\n" + IMAGE + b"\r\n0\r\n\r\n"),
        "trailers without end": request(CHUNKED, body=IN_CHUNKS[:-2] + b"X: y\r\n" * 20_000),
        "unknown transfer coding": request("Transfer-Encoding: xchunked"),
        "space before the colon": request("Content-Length : 64"),
        "folded header": request("X: a", " b", LENGTH),
        "NUL in a header": request("X: a\0b", LENGTH),
        "lines without CR": request(LENGTH).replace(b"\r\n", b"\n"),
        "HTTP/9.9": request(LENGTH, line="POST /predict HTTP/9.9"),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "tunnel": request(line="CONNECT elsewhere:80 HTTP/1.1"),
        "path beyond ASCII": request(LENGTH, line="POST /prédict HTTP/1.1"),
        "thousands of empty headers": request(*["A:"] * 2000, LENGTH),
    }.items(),
    ids=lambda each: each[0],
)
def test_what_is_no_http_is_refused_and_the_connection_closed(service: Running, sent: tuple[str, bytes]) -> None:
    assert statuses(exchange(service, sent[1])) == [400]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(LENGTH, "Connection: close"), 200),
        (request(CHUNKED, "Connection: close", body=IN_CHUNKS), 200),
        (request(LENGTH, line="POST /predict HTTP/1.0"), 200),
        (request(LENGTH, line="POST http://elsewhere/predict HTTP/1.0"), 200),
        (request("Content-Encoding: gzip", LENGTH), 415),
        (request(CHUNKED, body=b"FFFFFFFFFFFFFFF\r\n" + IMAGE), 408),
        (request("X-API-Key: wrong", LENGTH), 401),
        (f"GET /model?key={KEY}&x-api-key={KEY} HTTP/1.0\r\n\r\n".encode(), 401),
        (f"GET /model HTTP/1.0\r\nCookie: X-API-Key={KEY}\r\n\r\n".encode(), 401),
        (request(line="GET /docs/%2e%2e/settings.py HTTP/1.0", body=b""), 404),
        (request(line="GET /docs/..%2fsettings.py HTTP/1.0", body=b""), 404),
        (request(line="GET /docs/%ff%00 HTTP/1.0", body=b""), 404),
    ],
)
def test_what_is_odd_is_answered_for_what_it_is(service: Running, sent: bytes, status: int) -> None:
    assert statuses(exchange(service, sent)) == [status]


@pytest.mark.parametrize("framing", [(LENGTH, IMAGE), (CHUNKED, IN_CHUNKS)], ids=["length", "chunks"])
@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_an_offer_of_http_2_is_ignored_and_the_body_read(
    service: Running, framing: tuple[str, bytes], pieces: int
) -> None:
    header, body = framing
    sent = request(*OFFER, header, body=body)
    # Then another with a body that looks like a request, and one without an offer: none is taken for another.
    inner = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".ljust(64)
    sent += request(*OFFER, LENGTH, body=inner) + request(*OFFER, line="GET /health HTTP/1.1", body=b"")
    sent += request(LENGTH, "Connection: close")
    size = -(-len(sent) // pieces)

    answered = exchange(service, *[sent[start : start + size] for start in range(0, len(sent), size)])

    assert statuses(answered) == [200, 200, 200, 200]
    assert re.findall(rb'"label":"(\w+)"|"status":"(\w+)"', answered) == [
        (b"bright", b""),
        (b"dark", b""),
        (b"", b"alive"),
        (b"bright", b""),
    ]


def test_hundreds_of_damaged_requests_are_refused_or_answered(service: Running) -> None:
    dice = random.Random(0)
    whole = [
        request(LENGTH, "Connection: close"),
        request(CHUNKED, "Connection: close", body=IN_CHUNKS),
        request(*OFFER, CHUNKED, body=IN_CHUNKS),
        request("Connection: close", line="GET /model HTTP/1.1", body=b""),
    ]

    answered = asyncio.run(send_all(service.port, [damaged(dice, dice.choice(whole)) for _ in range(600)]))

    seen = Counter(status for each in answered for status in statuses(each))
    assert set(seen) <= {200, 400, 401, 404, 405, 408, 413, 415, 422}, seen
    assert seen[400] > 50 and seen[200] > 20, seen
    assert statuses(exchange(service, whole[0])) == [200]


def damaged(dice: random.Random, whole: bytes) -> bytes:
    place, other = dice.randrange(len(whole)), dice.randrange(len(whole))
    kind = dice.randrange(5)
    if kind == 0:
        return whole[:place]
    if kind == 1:
        return whole[:place] + dice.randbytes(dice.choice([1, 2, 40])) + whole[place:]
    if kind == 2:
        return whole[: max(place, other)] + whole[min(place, other) :]
    if kind == 3:
        return whole[:place] + dice.choice([b"\r\n", b"\n", b"\0", b":", b" ", b"0"]) + whole[place + 1 :]
    return whole[:place] + bytes([whole[place] ^ 1 << dice.randrange(8)]) + whole[place + 1 :]


async def send_all(port: int, sent: list[bytes]) -> list[bytes]:
    """A hundred at once, each on a connection of its own, until the service closes it."""
    turn = asyncio.Semaphore(100)

    async def send(content: bytes) -> bytes:
        async with turn:
            return await exchanged(content)

    async def exchanged(content: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        received = b""
        try:
            writer.write(content)
            while more := await asyncio.wait_for(reader.read(65_536), 30):
                received += more
        except ConnectionError:
            pass  # closed before the last byte was sent
        writer.close()
        return received

    return await asyncio.gather(*(send(content) for content in sent))


def test_many_large_bodies_at_once_are_refused_before_they_fill_the_memory(service: Running) -> None:
    worker = psutil.Process(service.process.pid)
    before = worker.memory_info().rss
    half = request(f"Content-Length: {2 * MEBIBYTE}", body=bytes(MEBIBYTE))

    answered = [statuses(each) for each in asyncio.run(send_all(service.port, [half] * 60))]

    assert Counter(status for each in answered for status in each).keys() == {408, 503}
    assert sum(each == [503] for each in answered) >= 60 - ROOM // MEBIBYTE
    assert worker.memory_info().rss - before < 6 * ROOM
    whole = service.post("/predict", bytes(ROOM - MEBIBYTE), RAW)
    assert (whole.status_code, "images were sent" in whole.text) == (413, True), "the room was given back"
