"""Turns: one run per use case and storage root at a time; a second one waits instead of doing the same work."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


@contextlib.contextmanager
def turn(usecase: str, store: Path) -> Iterator[None]:
    """Wait for any other run of this use case to end; the lock is the operating system's and dies with its process."""
    folder = store / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{usecase}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another run of %s is going on: waiting for it to end", usecase)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
