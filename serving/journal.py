"""The journal: what a worker writes down before it answers, and a drainer carries into the feedback store.

Each worker appends to files of its own in `JOURNAL/<worker>/`; the folder is locked for as long as the worker lives.
A record is one `write` to the kernel, which keeps it when the process is killed; labels lie in files of their own, so
that forcing them to disk does not wait for the images. A file is named `N.labels.open` while it is written and
`N.labels.closed` when it may be drained; the files of a worker that died may be drained whatever their name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Literal
from uuid import uuid4

from labline.errors import LablineError

Kind = Literal["predictions", "labels"]

FRAME = Struct("<III")  # marker, bytes of payload, CRC-32 of the payload
MARKER = 0x314A4C4C  # "LLJ1"
LARGEST_SEGMENT = 8 * 2**20


class Full(LablineError):
    """Nothing more can be kept: the journal has reached its bound, or the disk is full."""


@dataclass(slots=True)
class Segment:
    """One file of the journal, open for writing; `size` in bytes, `synced` of these are on the disk."""

    path: Path
    descriptor: int
    size: int = 0
    synced: int = 0
    closed: bool = False
    failed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sync(self) -> None:
        """Force what was appended so far to the disk; raises OSError where the disk refuses, and from then on."""
        with self.lock:
            size = self.size
            if self.synced >= size:
                return
            # After a failure the kernel may call lost pages clean: a second try would succeed, and mean nothing.
            if self.failed or self.closed:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            try:
                os.fsync(self.descriptor)
            except OSError:
                self.failed = True
                raise
            self.synced = size

    def close(self, durable: bool) -> None:
        """Give the file to the drainer, under its final name; who waits for the disk is answered by `sync`."""
        if durable:
            with suppress(OSError):
                self.sync()
        with self.lock:
            os.close(self.descriptor)
            self.closed = True
            self.path.rename(self.path.with_suffix(".closed"))


class Journal:
    """The writing end: one worker's files below the journal's folder; any thread may append.

    The folder holds at most about `limit_bytes`, all workers together; predictions are refused at nine tenths of it,
    so that there is room for labels, which are few and cannot be asked for again.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.root = folder
        self.limit_bytes = limit_bytes
        self.folder, self._lock_descriptor = _own_folder(folder)
        self._lock = threading.Lock()
        self._number = 0
        self._elsewhere = 0
        self._active: dict[Kind, Segment] = {"predictions": self._open("predictions"), "labels": self._open("labels")}
        self.measure()

    @property
    def size(self) -> int:
        """Bytes in the journal, all workers together, as last measured and with what was appended since."""
        return self._elsewhere + sum(segment.size for segment in self._active.values())

    def append(self, kind: Kind, frames: bytes) -> Segment:
        """Append one or more frames, all or none; raises Full."""
        limit = self.limit_bytes if kind == "labels" else self.limit_bytes * 9 // 10
        with self._lock:
            segment = self._active[kind]
            if self.size + len(frames) > limit:
                raise Full(f"the journal {self.root} holds {self.size / 2**20:.0f} MiB: the feedback store is behind")
            try:
                # At a position, not at the end: what a full disk took only the beginning of is written over.
                written = os.pwrite(segment.descriptor, frames, segment.size)
                if written < len(frames):
                    os.ftruncate(segment.descriptor, segment.size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise Full(f"the journal {self.root} cannot be written: {error.strerror}") from error
            segment.size += written
        return segment

    def roll(self) -> None:
        """Hand what was written over to the drainer, and go on in new files.

        Files wait while others of this worker wait to be drained, until they are large: a store that is down for an
        hour must not leave thousands of files.
        """
        waiting = any(self.folder.glob("*.closed"))
        for kind, segment in list(self._active.items()):
            early = waiting and segment.size < LARGEST_SEGMENT and not segment.failed
            if segment.size == 0 or early:
                continue
            with suppress(OSError):  # a full disk: the open file is kept, and tried again
                following = self._open(kind)
                with self._lock:
                    self._active[kind] = following
                    self._elsewhere += segment.size
                segment.close(durable=kind == "labels")
        self.measure()

    def measure(self) -> None:
        """Look how large the journal is; files vanish when they are drained, by another process perhaps."""
        own = {segment.path for segment in self._active.values()}
        every = (path for folder in self.root.iterdir() for path in _files(folder))
        self._elsewhere = sum(_size(path) for path in every if path not in own)

    def close(self) -> None:
        """Close the files and unlock the folder; empty ones go, others are the drainer's."""
        for kind, segment in self._active.items():
            segment.close(durable=kind == "labels")
            if segment.size == 0:
                segment.path.with_suffix(".closed").unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
        os.close(self._lock_descriptor)

    def _open(self, kind: Kind) -> Segment:
        self._number += 1
        path = self.folder / f"{self._number:08d}.{kind}.open"
        segment = Segment(path, os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        if kind == "labels":
            # A file that was forced to disk is lost all the same where its name was not.
            try:
                for folder in (self.folder, self.root):
                    _sync_folder(folder)
            except OSError:
                os.close(segment.descriptor)
                path.unlink()
                raise
        return segment


def frame(payload: bytes) -> bytes:
    """A payload with what is needed to recognise it as whole."""
    return FRAME.pack(MARKER, len(payload), zlib.crc32(payload)) + payload


def frames(content: bytes) -> Iterator[bytes | None]:
    """The payloads of a file, in order; a last None where the rest of it is torn or damaged.

    What follows a damaged frame is not searched for whole ones: payloads hold bytes of strangers, and these could
    hold frames.
    """
    position = 0
    while position < len(content):
        start = position + FRAME.size
        marker, length, checksum = FRAME.unpack_from(content, position) if start <= len(content) else (0, 0, 0)
        payload = content[start : start + length]
        if marker != MARKER or len(payload) != length or zlib.crc32(payload) != checksum:
            yield None
            return
        yield payload
        position = start + length


def drainable(folder: Path) -> list[Path]:
    """The files that nobody writes any more, oldest first of each worker; empty folders of dead workers go."""
    found: list[Path] = []
    for worker in sorted(path for path in folder.glob("*") if path.is_dir()):
        with _abandoned(worker) as abandoned:
            files = _files(worker)
            segments = [path for path in files if path.suffix == ".closed"]
            if abandoned:
                segments += [path for path in files if path.suffix == ".open"]
            if abandoned and not segments:
                with suppress(OSError):
                    worker.rmdir()
            found += segments
    return found


@contextmanager
def _abandoned(worker: Path) -> Iterator[bool]:
    """Whether the owner of a folder is dead; nobody becomes its owner meanwhile."""
    try:
        descriptor = os.open(worker, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def _own_folder(root: Path) -> tuple[Path, int]:
    """A new folder of this process and the descriptor that locks it."""
    while True:
        folder = root / f"{os.getpid()}-{uuid4().hex[:8]}"
        folder.mkdir(parents=True, mode=0o700)
        # Until it is locked, a drainer may take the folder for a dead one's, and remove it.
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing in one that vanished, or that is none."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
