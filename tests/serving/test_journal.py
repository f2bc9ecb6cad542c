"""The journal's files: whole records come back, torn ones are recognised, and nothing grows without bound."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.journal import FRAME, Full, Journal, Kind, drainable, frame, frames

PLENTY = 2**20


@given(st.lists(st.binary(max_size=100), max_size=10), st.data())
def test_a_torn_end_costs_only_the_record_that_was_being_written(payloads: list[bytes], data: st.DataObject) -> None:
    content = b"".join(map(frame, payloads))
    cut = data.draw(st.integers(0, len(content)))
    ends = [sum(len(frame(payload)) for payload in payloads[:count]) for count in range(len(payloads) + 1)]
    whole = max(count for count, end in enumerate(ends) if end <= cut)
    assert list(frames(content[:cut])) == payloads[:whole] + [None] * (cut not in ends)


def test_a_damaged_record_ends_the_file(tmp_path: Path) -> None:
    content = bytearray(frame(b"first") + frame(b"second") + frame(b"third"))
    content[len(frame(b"first")) + FRAME.size] ^= 1
    assert list(frames(bytes(content))) == [b"first", None]


def test_a_frame_within_a_torn_payload_is_not_taken_for_a_record() -> None:
    """Whoever sends pixels decides what bytes they are."""
    forged = frame(b"forged")
    assert list(frames(frame(b"first") + frame(forged * 10)[:-1])) == [b"first", None]


def test_files_are_drainable_once_they_are_handed_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path, PLENTY)
    journal.append("predictions", frame(b"p"))
    journal.append("labels", frame(b"l"))
    assert drainable(tmp_path) == [], "its owner is still writing"
    journal.roll()
    found = drainable(tmp_path)
    assert sorted(payload for path in found for payload in frames(path.read_bytes())) == [b"l", b"p"]
    journal.append("labels", frame(b"later"))
    journal.roll()
    assert drainable(tmp_path) == found, "small files wait for the drainer: a store that is down leaves no thousands"
    for path in found:
        path.unlink()
    journal.roll()
    assert len(drainable(tmp_path)) == 1
    journal.close()


def test_a_disk_that_refuses_a_new_file_costs_no_descriptor_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, PLENTY)
    journal.append("labels", frame(b"l"))
    before = len(os.listdir("/proc/self/fd")), sorted(tmp_path.rglob("*"))

    def refused(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr("serving.journal._sync_folder", refused)
        for _ in range(3):
            journal.roll()
    assert (len(os.listdir("/proc/self/fd")), sorted(tmp_path.rglob("*"))) == before
    journal.roll()
    assert len(drainable(tmp_path)) == 1, "handed over as soon as the disk takes it"
    journal.close()


def test_an_owner_that_died_leaves_its_files_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    living, dead = Journal(tmp_path, PLENTY), Journal(tmp_path, PLENTY)
    for journal in (living, dead):
        journal.append("labels", frame(b"said"))
    die(dead)
    found = drainable(tmp_path)
    assert {path.parent for path in found} == {dead.folder}
    for path in found:
        path.unlink()
    assert drainable(tmp_path) == [] and not dead.folder.exists() and living.folder.exists()
    living.close()


def test_a_closed_journal_leaves_only_what_was_written(tmp_path: Path) -> None:
    empty, used = Journal(tmp_path, PLENTY), Journal(tmp_path, PLENTY)
    used.append("labels", frame(b"said"))
    empty.close()
    used.close()
    assert not empty.folder.exists()
    assert [path.name for path in used.folder.iterdir()] == [path.name for path in drainable(tmp_path)]


def test_it_is_full_at_its_bound_and_has_room_again_when_it_is_drained(tmp_path: Path) -> None:
    first, second = Journal(tmp_path, 10_000), Journal(tmp_path, 10_000)
    fill(first, "predictions")
    assert first.size <= 9_000
    first.append("labels", frame(bytes(200)))
    second.measure()
    with pytest.raises(Full, match="the feedback store is behind"):
        second.append("predictions", frame(bytes(500)))  # the bound is of all workers together
    fill(first, "labels")
    assert first.size <= 10_000
    first.roll()
    for path in drainable(tmp_path):
        path.unlink()
    first.measure()
    first.append("predictions", frame(bytes(200)))
    for journal in (first, second):
        journal.close()


def test_a_full_disk_takes_all_of_a_record_or_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, PLENTY)
    journal.append("labels", frame(b"before"))
    with no_file_larger_than(100), pytest.raises(Full, match="cannot be written"):
        journal.append("labels", frame(bytes(1000)))
    journal.append("labels", frame(b"after"))
    journal.close()
    (path,) = drainable(tmp_path)
    assert list(frames(path.read_bytes())) == [b"before", b"after"]


def fill(journal: Journal, kind: Kind) -> None:
    """Append until there is no room."""
    for _ in range(1000):
        try:
            journal.append(kind, frame(bytes(200)))
        except Full:
            return
    pytest.fail("it has no bound")


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Writes end at this byte of a file, as they do where a disk is full: the first of them is cut short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def die(journal: Journal) -> None:
    """What is left of a process that was killed: its files as they are, and no lock."""
    for segment in journal._active.values():
        os.close(segment.descriptor)
    os.close(journal._lock_descriptor)


def test_a_drainer_that_looks_at_the_wrong_moment_costs_no_worker_its_start(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from serving.journal import drainable\nwhile True: drainable(pathlib.Path(sys.argv[1]))"
    )
    looking = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    try:
        for _ in range(3000):
            journal = Journal(tmp_path, PLENTY)
            assert journal.folder.exists()
            journal.close()
    finally:
        for process in looking:
            process.kill()
            process.wait()
