"""The cache in front of an object storage, kept within a bound: what was used longest ago goes first.

    <cache>/stages/<stage>/<key>/complete.json     there once the folder lies in the object storage too
    <cache>/locks/stages-<stage>-<key>             held shared by whoever uses the folder; its time is that of last use

Only a folder that can be fetched again is ever removed, and never one that a living process uses.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from labline.errors import BadInput
from tasks.publication import MARKER

KINDS = ("stages", "evidence", "descriptions")
DEFAULT_BYTES = 20 * 2**30
_held: dict[Path, int] = {}  # file descriptors of this process, which die with it


@dataclass(frozen=True)
class Kept:
    """A folder that could go: its name below the cache, its size, and when it was last used, in ns since 1970."""

    name: str
    bytes: int
    used: int


def use(cache: Path, name: str) -> Path:
    """Keep a folder from being removed while this process lives; returns where it is, or is to be."""
    path = _lock(cache, name)
    if path not in _held:
        descriptor = _open(path)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for whoever is just removing it
        _held[path] = descriptor
    os.utime(_held[path])
    return cache / name


def stop_using(cache: Path, name: str) -> None:
    """Let go of a folder that this process used."""
    descriptor = _held.pop(_lock(cache, name), None)
    if descriptor is not None:
        os.close(descriptor)


def make_room(cache: Path, needed: int = 0) -> list[str]:
    """Remove what was used longest ago until `needed` bytes more keep the bound; returns the names of what went.

    Where all that is left is in use, the bound is exceeded: a run needs what it needs. Raises BadInput for a
    LABLINE_CACHE_BYTES that is no number.
    """
    kept = sorted(list_kept(cache), key=lambda folder: folder.used)
    excess = sum(folder.bytes for folder in kept) + needed - limit_bytes()
    removed = []
    for folder in kept:
        if excess <= 0:
            break
        if _remove(cache, folder.name):
            removed.append(folder.name)
            excess -= folder.bytes
    return removed


def list_kept(cache: Path) -> Iterator[Kept]:
    """Every folder that lies in the object storage too."""
    for kind in KINDS:
        for marker in cache.glob(f"{kind}/*/*/{MARKER}"):
            name = marker.parent.relative_to(cache).as_posix()
            with suppress(OSError, ValueError, KeyError):  # removed meanwhile
                lock = _lock(cache, name)
                used = (lock if lock.exists() else marker).stat().st_mtime_ns
                yield Kept(name, int(json.loads(marker.read_text())["bytes"]), used)


def limit_bytes() -> int:
    """The bound, from LABLINE_CACHE_BYTES; 20 GiB where that is not set."""
    declared = os.environ.get("LABLINE_CACHE_BYTES") or str(DEFAULT_BYTES)
    if not declared.isdecimal():
        raise BadInput(f"LABLINE_CACHE_BYTES is {declared!r}: a whole number of bytes was expected, as {DEFAULT_BYTES}")
    return int(declared)


def _remove(cache: Path, name: str) -> bool:
    """Remove a folder unless somebody uses it: out of sight at once, then file by file."""
    with _alone(_lock(cache, name)) as mine:
        if not mine or not (cache / name / MARKER).is_file():
            return False
        going = cache / "going"
        going.mkdir(parents=True, exist_ok=True)
        os.replace(cache / name, going / uuid4().hex)
    for path in going.iterdir():  # also what a process that was killed had left
        shutil.rmtree(path, ignore_errors=True)
    return True


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold a lock against everybody, this process too; yields False where somebody has it."""
    descriptor = _open(path)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(cache: Path, name: str) -> Path:
    return cache / "locks" / name.replace("/", "-")
