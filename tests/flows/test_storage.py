"""A storage root that is read-only, full, or fills up in the middle: one sentence and exit code 2; then it goes on."""

from __future__ import annotations

import contextlib
import errno
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_runs import Ended, command, embedded

from tasks.environment import storage_problem

# Whichever of the writers meets it first: a file, or SQLite.
FULL = "No space left on device|database or disk is full"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 230 MiB: a little more than labline asks for before it starts."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=230m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def fill(disk: Path) -> None:
    """Take every byte that is left."""
    with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as filler:
        while True:
            filler.write(bytes(2**16))


def run_on_a_disk_that_fills_up(disk: Path, moment: str, *arguments: str) -> Ended:
    """A labline command whose disk is full from the moment on that a file of that name is there."""
    process = subprocess.Popen(
        command(*arguments),
        env=embedded(disk / "store"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None and not list((disk / "store").glob(moment)):
            time.sleep(0.01)
        while process.poll() is None:
            fill(disk)
            time.sleep(0.05)
    finally:
        process.kill()
    out, err = process.communicate()
    return Ended(process.returncode, out, err)


def assert_told(ended: Ended, disk: Path, reason: str) -> None:
    """Exit code 2 and one message, the last thing said: which folder, why, and what to do."""
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    (said,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.err.strip().endswith(said)
    assert f"the storage root {disk}/store" in said
    assert re.search(reason, said)
    assert "LABLINE_STORE" in said


def test_a_read_only_storage_root(labline: Callable[..., Ended], disk: Path) -> None:
    remount(disk, "ro")
    assert_told(labline("run", "surface", store=disk / "store"), disk, "Read-only file system")


def test_a_full_storage_root(labline: Callable[..., Ended], disk: Path) -> None:
    fill(disk)
    assert_told(labline("run", "surface", store=disk / "store"), disk, "No space left on device")


def test_too_little_space_to_begin_with(labline: Callable[..., Ended], disk: Path) -> None:
    (disk / "filler").write_bytes(bytes(50 * 2**20))
    assert_told(labline("run", "surface", store=disk / "store"), disk, "at least 200 MiB are needed")


def test_no_space_for_the_images(parts: Path, disk: Path) -> None:
    ended = run_on_a_disk_that_fills_up(disk, "stages/ingest/*", "check", str(parts))
    assert_told(ended, disk, FULL)


def test_no_space_for_the_databases_and_once_there_is_the_same_command_goes_on(
    labline: Callable[..., Ended], parts: Path, disk: Path
) -> None:
    ended = run_on_a_disk_that_fills_up(disk, "stages/train/*", "run", str(parts))
    assert_told(ended, disk, FULL)

    remount(disk, "size=600m")
    resumed = labline("run", str(parts), "--json", store=disk / "store")
    assert resumed.code == 0, resumed.err
    assert resumed.summary["version"] == "1"
    cached = [stage["name"] for stage in resumed.summary["stages"] if stage["cached"]]
    assert cached[:3] == ["ingest", "validate", "clean"]


def test_a_file_elsewhere_that_may_not_be_read_is_no_problem_of_the_storage_root() -> None:
    assert storage_problem(PermissionError(errno.EACCES, "Permission denied", "labels.csv")) is None
