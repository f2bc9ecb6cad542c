"""Stages between this machine's cache and the object storage behind it.

    <url>/stages/<stage>/<key>/       a finished stage, its result with it (see `tasks.publication`)
    <url>/checkpoints/<stage>/<key>/  what a stage that has not ended would go on from

Nothing here does anything where the storage root is a local folder. Raises BadInput where the object storage refuses
or is away (see `tasks.object_storage`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

from labline.errors import LablineError
from tasks.environment import local_databases, storage_root
from tasks.local_cache import make_room, use
from tasks.object_storage import ObjectStorage, opened
from tasks.observer import observer
from tasks.publication import MARKER, Damaged, Published, download, find, publish, withdraw

log = logging.getLogger("labline.storage")
EVIDENCE, DESCRIPTION = "evidence/", "descriptions/"
CHECKPOINT = "checkpoint.pt"  # of no use once its stage has ended
REST = 9.0  # times what a checkpoint took to upload: a tenth of the time goes into it at most
# What this process goes by, whoever publishes anew meanwhile; by object storage and name.
_adopted: dict[tuple[ObjectStorage, str], Published] = {}


def is_here(name: str) -> bool:
    """Whether a finished folder is in the storage root; it then stays while this process lives."""
    return _used(name).is_dir()


def share(name: str, result: Callable[[], str]) -> bool:
    """Publish a finished folder of this storage root with its stage's result; returns False where it is already.

    `result` is asked for its JSON only when it is needed.
    """
    storage, folder = opened(), storage_root() / name
    if storage is None or not folder.is_dir() or (folder / MARKER).is_file():
        return False
    needs = tuple(sorted(_needs(folder)))
    published = publish(storage, name, folder, _origin(), _is_finished, result(), needs)
    _write(folder / MARKER, published.model_dump_json())
    make_room(storage_root())
    return True


def adopt(name: str) -> Published | None:
    """What another machine, or this one before its cache was cleared, published of a stage; None where nothing is.

    Its files stay where they are until `present` asks for them.
    """
    storage = opened()
    published = find(storage, name) if storage is not None else None
    if storage is not None and published is not None:
        _adopted[storage, name] = published
        if published.origin != _origin():
            _tell_of_databases()
    return published


def present(name: str) -> Path:
    """A finished folder of the storage root, with what its files point at, fetched where it is not here.

    It stays while this process lives. Raises LablineError where what is in the object storage is damaged or gone.
    """
    storage, folder = opened(), _used(name)
    if storage is None or not name.startswith("stages/"):
        return folder
    if not folder.is_dir():
        _fetch(storage, name, name, lambda path: True)
    marker = folder / MARKER
    for needed in Published.model_validate_json(marker.read_text()).needs if marker.is_file() else ():
        present(needed)
    return folder


def evidence(name: str) -> Path:
    """A folder with the `evidence` of a finished stage; where the stage's is not here, no more than that is fetched."""
    return _part(name, EVIDENCE, lambda path: path.startswith(EVIDENCE))


def description(name: str) -> Path:
    """A folder with `dataset.json` and `manifest.parquet` of a finished stage, fetched without its images."""
    return _part(name, DESCRIPTION, lambda path: path in ("dataset.json", "manifest.parquet"))


def names_of_datasets() -> list[str]:
    """Every finished stage with a data set, in this cache or in the object storage."""
    storage, root = opened(), storage_root()
    names = {path.parent.relative_to(root).as_posix() for path in root.glob("stages/*/*/dataset.json")}
    if storage is not None:
        kept = [name for name in storage.sizes("stages") if name.endswith("/dataset.json")]
        names |= {name for name in ("/".join(path.split("/")[:3]) for path in kept) if find(storage, name) is not None}
    return sorted(names)


def remove(name: str) -> None:
    """Delete a finished stage, here and in the object storage; what other machines have in their caches stays."""
    if (storage := opened()) is not None and (published := find(storage, name)) is not None:
        withdraw(storage, name, published)
        _adopted.pop((storage, name), None)
    for kind in ("stages/", EVIDENCE, DESCRIPTION):  # two that delete at once want the same
        shutil.rmtree(storage_root() / name.replace("stages/", kind, 1), ignore_errors=True)


def keep_checkpoint(name: str, partial: Path) -> float:
    """Publish what a stage that goes on has to continue from; returns the seconds for which to rest then.

    What goes wrong is said, and is no reason to stop: the next one is tried.
    """
    storage, begun = opened(), time.perf_counter()
    if storage is None:
        return 0.0
    try:
        publish(storage.impatient, _checkpoint(name), partial, _origin(), _is_checkpoint)
    except LablineError as error:
        _say(f"the last checkpoint is on this machine alone: {error}")
    return REST * (time.perf_counter() - begun)


def bring_checkpoint(name: str, partial: Path) -> None:
    """Fetch what a killed run of another machine left of a stage, unless what this one has is newer."""
    storage = opened()
    published = find(storage, _checkpoint(name)) if storage is not None else None
    if storage is None or published is None:
        return
    here = [path.stat().st_mtime for path in partial.glob("*") if path.is_file() and _is_checkpoint(path.name)]
    if here and (published.origin == _origin() or max(here) > published.at):
        return
    incoming = _incoming(_checkpoint(name))
    download(storage, _checkpoint(name), published, incoming)
    for path in published.files:
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(incoming / path, partial / path)
    shutil.rmtree(incoming)


def drop_checkpoint(name: str) -> None:
    """Remove the checkpoint of a stage that has ended."""
    storage = opened()
    if storage is not None and (published := find(storage, _checkpoint(name))) is not None:
        withdraw(storage, _checkpoint(name), published)


def _part(name: str, kind: str, wanted: Callable[[str], bool]) -> Path:
    storage, folder = opened(), _used(name)
    if storage is None or folder.is_dir():
        return folder
    part = name.replace("stages/", kind, 1)
    if not _used(part).is_dir():
        _fetch(storage, name, part, wanted)
    return storage_root() / part


def _fetch(storage: ObjectStorage, name: str, destination: str, wanted: Callable[[str], bool]) -> None:
    """Bring what was published under a name to a folder of the cache: complete, checked, or not at all."""
    root = storage_root()
    lock = root / "locks" / f"fetching-{destination.replace('/', '-')}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if (root / destination).is_dir():
            return  # whoever held the lock has brought it
        published = _adopted.get((storage, name)) or find(storage, name)
        if published is None:
            raise LablineError(f"{storage.url} has no {name} any more: run again, and it is made anew")
        chosen, incoming = published.only(wanted), _incoming(destination)
        make_room(root, chosen.bytes)
        try:
            download(storage, name, chosen, incoming)
        except Damaged:
            _adopted.pop((storage, name), None)
            # Whoever published it anew meanwhile has made it good.
            if (now := find(storage, name)) is not None and now.generation == published.generation:
                withdraw(storage, name, None)
            raise
        _write(incoming / MARKER, chosen.model_dump_json())
        (root / destination).parent.mkdir(parents=True, exist_ok=True)
        os.replace(incoming, root / destination)


def _used(name: str) -> Path:
    return storage_root() / name if opened() is None else use(storage_root(), name)


def _incoming(name: str) -> Path:
    return storage_root() / "incoming" / name.replace("/", "-")


def _needs(folder: Path) -> set[str]:
    """Other stages' folders that a dataset points at: a cleaned one has its images in the ingested one."""
    description = folder / "dataset.json"
    if not description.is_file():
        return set()
    root = storage_root()
    texts = [text for text in json.loads(description.read_text()).values() if isinstance(text, str) and "/" in text]
    pointed = [Path(os.path.normpath(folder / text)) for text in texts]
    names = ["/".join(path.relative_to(root).parts[:3]) for path in pointed if path.is_relative_to(root / "stages")]
    return {*names} - {folder.relative_to(root).as_posix()}


def _checkpoint(name: str) -> str:
    return name.replace("stages/", "checkpoints/", 1)


def _is_finished(path: str) -> bool:
    return path not in (MARKER, CHECKPOINT)


def _is_checkpoint(path: str) -> bool:
    return not path.startswith(EVIDENCE) and not path.endswith(".partial")


def _origin() -> str:
    """What tells this cache from those of other machines."""
    path = storage_root() / "id"
    if not path.is_file():
        _write(path, uuid4().hex)
    return path.read_text()


def _write(path: Path, text: str) -> None:
    written = path.with_name(f".{path.name}-{uuid4().hex}")
    written.write_text(text)
    os.replace(written, path)


@cache
def _tell_of_databases() -> None:
    """Say, once, that the machines that share a bucket do not share what they write into databases."""
    if databases := local_databases():
        _say(
            f"another machine works on this LABLINE_STORE too, and {', '.join(databases)} are SQLite files of this "
            "one: the two know nothing of each other's runs and versions; set them to addresses that both reach"
        )


def _say(message: str) -> None:
    log.warning(message)
    observer.get().said(message)
