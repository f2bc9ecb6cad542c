"""Turns: one run per use case and storage root at a time; a second one waits instead of doing the same work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.observer import observer


@contextlib.contextmanager
def turn(usecase: str, store: Path) -> Iterator[None]:
    """Wait for any other run of this use case to end; the lock is the operating system's and dies with its process."""
    folder = store / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{usecase}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        observer.get().said(f"another run of {usecase} is going on: waiting for it to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
