"""Turns: one at a time does a thing to a use case; another one waits, or is told that it cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.observer import observer


@contextlib.contextmanager
def turn(usecase: str, store: Path) -> Iterator[None]:
    """Wait for any other run of this use case to end, instead of doing the same work beside it."""
    with hold(store / "runs" / f"{usecase}.lock", f"another run of {usecase} is going on: waiting for it to end"):
        yield


@contextlib.contextmanager
def hold(path: Path, waiting: str | None) -> Iterator[bool]:
    """Hold the lock at a path; where somebody else does, say `waiting` and wait, or, without it, yield False at once.

    The lock is the operating system's: it dies with its process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            yield False
            return
        observer.get().said(waiting)
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()
