"""The load generator, against real sockets: servers that answer, in pieces, wrongly, with an error, or not at all."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from free_ports import free_port

from benchmarks.load import Target, drive, named, request
from benchmarks.rivals import constant_answer
from labline.errors import LablineError

ASKED = request("/predict", bytes(3072), "application/octet-stream", {"Authorization": "Bearer key"})
RIGHT = constant_answer.ANSWER


def target(port: int, expected: float = 1.0) -> Target:
    return Target(port, [ASKED], [[expected]], named("probabilities"))


@contextlib.contextmanager
def scripted(*pieces: bytes) -> Iterator[int]:
    """The port of a server that sends these pieces, each by itself, for every request; and hangs up for no pieces."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening, pieces), daemon=True).start()
        yield int(listening.getsockname()[1])


def _accept(listening: socket.socket, pieces: tuple[bytes, ...]) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_answer, args=(connection, pieces), daemon=True).start()


def _answer(connection: socket.socket, pieces: tuple[bytes, ...]) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, contextlib.suppress(OSError):
        while connection.recv(len(ASKED), socket.MSG_WAITALL):
            if not pieces:
                return
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.001)  # so that the pieces arrive as pieces


@pytest.fixture(scope="module")
def constant() -> Iterator[int]:
    """The port of the server that does nothing, as the benchmark starts it."""
    port = free_port()
    server = subprocess.Popen([sys.executable, constant_answer.__file__, str(port), str(len(ASKED))])
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize("concurrency", [1, 16])
def test_requests_and_latencies_add_up(constant: int, concurrency: int) -> None:
    load = drive(target(constant), concurrency, seconds=0.2)
    assert load.errors == 0 and load.first_error == ""
    assert load.requests >= concurrency
    assert 0 < load.p50_ms <= load.p99_ms
    # Each connection has one request in flight at all times: the mean latency is concurrency / rate.
    assert load.p50_ms / 1e3 * load.per_second <= 2 * concurrency


def test_one_answer_in_64_is_compared(constant: int) -> None:
    load = drive(target(constant, expected=0.5), 4, seconds=0.2)
    assert load.checked == -(-load.requests // 64)
    assert load.errors == load.checked
    assert "wrong answer: expected [0.5]" in load.first_error


@pytest.mark.parametrize("cut", [1, 30, RIGHT.index(b"\r\n\r\n") + 2, len(RIGHT) - 1])
def test_an_answer_may_come_in_pieces(cut: int) -> None:
    with scripted(RIGHT[:cut], RIGHT[cut:]) as port:
        load = drive(target(port), 2, seconds=0.1)
    assert load.requests >= 2 and load.errors == 0


def test_header_names_may_be_written_as_the_server_likes() -> None:
    with scripted(RIGHT.replace(b"content-length", b"Content-Length")) as port:
        assert drive(target(port), 1, seconds=0.05).errors == 0


def test_an_error_status_is_an_error() -> None:
    with scripted(RIGHT.replace(b"200 OK", b"503 Unavailable")) as port:
        load = drive(target(port), 2, seconds=0.05)
    assert load.errors == load.requests and "503" in load.first_error


def test_an_answer_that_cannot_be_read_is_an_error() -> None:
    with scripted(RIGHT.replace(b"probabilities", b"possibilities")) as port:
        assert "unreadable answer" in drive(target(port), 1, seconds=0.05).first_error


def test_a_server_that_hangs_up_is_reported() -> None:
    with scripted() as port, pytest.raises(LablineError, match="answered nothing: the connection broke"):
        drive(target(port), 2, seconds=0.05)


def test_nobody_there_is_reported() -> None:
    with pytest.raises(LablineError, match="nothing answers on port"):
        drive(target(free_port()), 1, seconds=0.05)


def test_a_request_is_whole() -> None:
    head, _, body = ASKED.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first == "POST /predict HTTP/1.1"
    assert dict(line.split(": ") for line in lines) == {
        "Host": "127.0.0.1",
        "Content-Type": "application/octet-stream",
        "Authorization": "Bearer key",
        "Content-Length": "3072",
    }
    assert len(body) == 3072
