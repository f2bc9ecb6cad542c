"""Clients that are slow, too talkative or gone: bounds on what a connection may cost. Real sockets throughout."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest
from running_service import RAW, Running, prepare, running, write_classifier

from serving.limits import Limits

IMAGE = np.full(64, 200, np.uint8).tobytes()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Impatient, and of small bodies."""
    root = tmp_path_factory.mktemp("service")
    settings = prepare(root, production=write_classifier(root / "one"))
    with running(settings, body_timeout=0.5, keep_alive=1, limits=Limits(max_body=1000)) as found:
        yield found


def connected(service: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=10)


def head(service: Running, *lines: str) -> bytes:
    first = ("POST /predict HTTP/1.1", "Host: x", f"X-API-Key: {service.settings.key}", f"Content-Type: {RAW}")
    return "\r\n".join([*first, *lines, "", ""]).encode()


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    received = b""
    while more := connection.recv(65_536):
        received += more
    return received


def drip(connection: socket.socket) -> None:
    """A header now and then, for ten seconds."""
    for i in range(200):
        connection.sendall(b"X-%d: y\r\n" % i)
        time.sleep(0.05)


def test_a_body_in_chunks_is_a_body(service: Running) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (IMAGE[:10], IMAGE[10:11], IMAGE[11:])

    answer = service.client.post("/predict", content=chunks(), headers={"content-type": RAW})

    assert (answer.status_code, answer.json()["label"]) == (200, "bright")


def test_a_body_that_says_it_is_too_long_is_not_read(service: Running) -> None:
    with connected(service) as connection:
        connection.sendall(head(service, "Content-Length: 100000000000"))

        assert b"413 Request Entity Too Large" in read_all(connection)


def test_a_body_that_turns_out_too_long_is_cut_off(service: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 100

    answer = service.client.post("/predict", content=endless(), headers={"content-type": RAW})

    assert (answer.status_code, answer.headers["connection"]) == (413, "close")


def test_a_body_that_does_not_come_is_not_waited_for(service: Running) -> None:
    with connected(service) as connection:
        connection.sendall(head(service, f"Content-Length: {len(IMAGE)}") + IMAGE[:10])

        assert b"408 Request Timeout" in read_all(connection)


@pytest.mark.parametrize("said", [b"", b"POST /pre", b"GET /health HTTP/1.1\r\nHost: x\r\n", b"\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(service: Running, said: bytes) -> None:
    with connected(service) as connection:
        connection.sendall(said)

        assert read_all(connection) == b""  # closed by the service; a timeout of the socket would raise


def test_a_drip_of_headers_does_not_hold_a_connection(service: Running) -> None:
    with connected(service) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        with pytest.raises(OSError):  # the service has hung up
            drip(connection)


def test_a_connection_that_rests_is_closed_and_one_that_asks_again_is_answered(service: Running) -> None:
    with connected(service) as connection:
        for _ in range(3):
            connection.sendall(head(service, f"Content-Length: {len(IMAGE)}") + IMAGE)
            answer = connection.recv(65_536)  # head and body in one piece
            assert b"200 OK" in answer and b'"bright"' in answer
            time.sleep(0.6)  # longer than a head may take, shorter than a connection may rest

        assert read_all(connection) == b""


def test_headers_without_end_are_refused(service: Running) -> None:
    with connected(service) as connection:
        connection.sendall(head(service, "X-Long: " + "x" * 40_000, "Content-Length: 0"))

        assert b"400 Bad Request" in read_all(connection)


def test_a_client_that_leaves_harms_nobody(service: Running) -> None:
    for _ in range(20):
        with connected(service) as connection:
            connection.sendall(head(service, f"Content-Length: {len(IMAGE)}") + IMAGE[:30])
    with connected(service) as connection:
        connection.sendall(head(service, f"Content-Length: {len(IMAGE)}") + IMAGE)

    assert service.post("/predict", IMAGE, RAW).status_code == 200
    assert service.process.poll() is None
