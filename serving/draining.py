"""The drainer: carries what workers wrote into the journal over to the feedback store, and deletes it there.

One at a time drains a journal, whichever process holds its lock; the others stand by. So the workers' own threads
will do, and another process that starts one before them relieves the workers of the work.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DataError, IntegrityError, StatementError

from labline.feedback import FeedbackStore
from serving.entries import decode
from serving.journal import drainable, frame, frames

log = logging.getLogger("labline.feedback")

BATCH_RECORDS = 500
BATCH_BYTES = 4 * 2**20
POLL_SECONDS = 0.2
PATIENCE_SECONDS = (0.2, 5.0)  # between tries while the store is down: doubled from one to the other
REFUSED = "refused"  # a folder beside the workers' own


class Drainer:
    """A thread that drains the journal below a folder into the store at an address, until it is closed.

    Counted since the start: `drained` records, `dropped` ones (their prediction was deleted on request), `refused`
    ones (the store will never take them: kept in `JOURNAL/refused`) and `torn` files (their end is damaged).
    `problem` says why the store cannot be written at the moment, and is empty where it can.
    """

    def __init__(self, store_address: str, folder: Path) -> None:
        self.folder = folder
        self.drained = self.dropped = self.refused = self.torn = 0
        self.problem = ""
        self._store = FeedbackStore(store_address)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feedback-drainer", daemon=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """Drain once more and stop, within so many seconds; what is left is drained by whoever comes next."""
        self._stopping.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        with _only_one(self.folder, self._stopping) as chosen:
            patience = PATIENCE_SECONDS[0]
            while chosen:
                stopping = self._stopping.is_set()  # what was closed before that is drained below
                self._drain()
                if stopping:
                    break
                patience = min(2 * patience, PATIENCE_SECONDS[1]) if self.problem else PATIENCE_SECONDS[0]
                self._stopping.wait(patience if self.problem else POLL_SECONDS)
        self._store.close()

    def _drain(self) -> None:
        """Carry over what may be drained now; where that fails, for whatever reason, the journal keeps it."""
        try:
            while paths := drainable(self.folder):
                for path in paths:
                    self._drain_file(path)
        except Exception as error:
            if not self.problem:
                log.warning("the feedback store cannot be written, the journal grows: %s", _told(error))
            self.problem = _told(error)
        else:
            if self.problem:
                log.warning("the feedback store is written again")
            self.problem = ""

    def _drain_file(self, path: Path) -> None:
        """Write one file's records and delete it; one that is drained again after a crash changes nothing."""
        batch: list[bytes] = []
        size = 0
        for payload in frames(path.read_bytes()):
            if payload is None:
                self.torn += 1
                log.warning("the end of %s is damaged: what was being written when the process died is lost", path)
                continue
            batch.append(payload)
            size += len(payload)
            if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
                self._write(batch)
                batch, size = [], 0
        self._write(batch)
        path.unlink()

    def _write(self, payloads: list[bytes]) -> None:
        """Write a batch in one transaction; where the store refuses it for a record's sake, one by one."""
        if not payloads:
            return
        try:
            dropped = self._store.write([decode(payload) for payload in payloads])
        except Exception as error:
            if not _for_ever(error):
                raise
            if len(payloads) == 1:
                self._set_aside(payloads[0], error)
                return
            for payload in payloads:
                self._write([payload])
        else:
            self.drained += len(payloads)
            self.dropped += dropped

    def _set_aside(self, payload: bytes, error: Exception) -> None:
        """Keep a record out of the way of the others, once however often it is met."""
        path = self.folder / REFUSED / f"{hashlib.blake2b(payload, digest_size=16).hexdigest()}.record"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(frame(payload))
        self.refused += 1
        log.error("the feedback store refuses a record, which is kept as %s: %s", path, _told(error))


def _for_ever(error: Exception) -> bool:
    """Whether it is the record that is refused: text with a NUL, say, which PostgreSQL has no room for."""
    unbindable = type(error) is StatementError  # its subclasses are the database's own words
    return unbindable or isinstance(error, DataError | IntegrityError | ValueError | TypeError | struct.error)


def _told(error: Exception) -> str:
    """The first line of an error, without the statement and the values that SQLAlchemy adds: they are private."""
    return f"{type(error).__name__}: {str(getattr(error, 'orig', None) or error).splitlines()[0][:200]}"


@contextmanager
def _only_one(folder: Path, stopping: threading.Event) -> Iterator[bool]:
    """Wait for the journal's lock, which dies with its holder; false where `stopping` came first."""
    descriptor = os.open(folder / "drainer.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stopping.wait(POLL_SECONDS):
                    yield False
                    return
        yield True
    finally:
        os.close(descriptor)
