"""Folders in the object storage: published whole, fetched whole, every file checked by its sha256.

    <url>/<name>/complete.json        written last: what belongs to the folder
    <url>/<name>/<generation>/…       its files; a generation is named by their content

A publication that dies is invisible and, begun again, goes on with the files that are still missing; one that replaces
another does so in the moment its complete.json is there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from labline.errors import LablineError
from tasks.object_storage import ObjectStorage

MARKER = "complete.json"


class File(BaseModel):
    """What a file must be to be taken for the one that was published."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str


class Published(BaseModel):
    """A folder in the object storage.

    `generation` names its content, `files` and empty `folders` are relative to it, `bytes` are those of all files;
    `needs` are other folders that its files point at; `result` is what the stage returned, as JSON; `origin` is the
    cache it came from, `at` the time in seconds since 1970.
    """

    model_config = ConfigDict(frozen=True)

    generation: str
    bytes: int
    files: dict[str, File]
    folders: tuple[str, ...]
    needs: tuple[str, ...]
    result: str
    origin: str
    at: float

    def only(self, wanted: Callable[[str], bool]) -> Published:
        """The part of it whose files' names are wanted."""
        files = {name: file for name, file in self.files.items() if wanted(name)}
        return self.model_copy(update={"files": files, "bytes": sum(file.bytes for file in files.values())})


class Damaged(LablineError):
    """What lies in the object storage is not what was published."""


def publish(
    storage: ObjectStorage,
    name: str,
    folder: Path,
    origin: str,
    wanted: Callable[[str], bool],
    result: str = "",
    needs: tuple[str, ...] = (),
) -> Published:
    """Put the wanted files of a folder, asked for by their names in it, into the object storage.

    Raises BadInput as `ObjectStorage` does.
    """
    files = {path: _described(folder / path) for path in sorted(_names(folder)) if wanted(path)}
    identity = json.dumps({path: file.sha256 for path, file in files.items()})
    published = Published(
        generation=hashlib.sha256(identity.encode()).hexdigest()[:16],
        bytes=sum(file.bytes for file in files.values()),
        files=files,
        folders=tuple(sorted(path for path in _empty_folders(folder) if wanted(path))),
        needs=needs,
        result=result,
        origin=origin,
        at=time.time(),
    )
    root, earlier = f"{name}/{published.generation}", find(storage, name)
    there = storage.sizes(root)
    missing = {f"{root}/{path}": folder / path for path in files if f"{root}/{path}" not in there}
    if missing:
        storage.upload(missing)
    storage.write(f"{name}/{MARKER}", published.model_dump_json().encode())
    if earlier is not None and earlier.generation != published.generation:
        storage.delete(_objects(name, earlier))
    return published


def find(storage: ObjectStorage, name: str) -> Published | None:
    """What was published under a name; None where nothing was, or not to its end."""
    content = storage.read(f"{name}/{MARKER}")
    return Published.model_validate_json(content) if content is not None else None


def withdraw(storage: ObjectStorage, name: str, published: Published | None) -> None:
    """Remove it: the marker first, so that nobody begins to fetch it, then the files of what was found."""
    storage.delete([f"{name}/{MARKER}"])
    if published is not None:
        storage.delete(_objects(name, published))


def download(storage: ObjectStorage, name: str, published: Published, folder: Path) -> None:
    """Bring every file to a folder that is emptied first, and check it; once more where one is not right.

    Raises Damaged where it still is not, and BadInput as `ObjectStorage` does.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for path in ("", *published.folders):
        (folder / path).mkdir(parents=True, exist_ok=True)
    wrong = _bring(storage, name, published, folder) and _bring(storage, name, published, folder)
    if wrong:
        shutil.rmtree(folder)
        raise Damaged(f"{storage.url}/{name}: {wrong}; run again, and it is made anew")


def _bring(storage: ObjectStorage, name: str, published: Published, folder: Path) -> str:
    """Download every file; returns what is wrong with one of them, empty where all are right."""
    objects = _objects(name, published)
    try:
        if objects:
            storage.download(dict(zip(objects, (folder / path for path in published.files), strict=True)))
    except FileNotFoundError as error:
        return f"a file is gone ({error})"
    for path, file in published.files.items():
        if _described(folder / path) != file:
            return f"{path} is not what was published: its size or sha256 differs"
    return ""


def _objects(name: str, published: Published) -> list[str]:
    return [f"{name}/{published.generation}/{path}" for path in published.files]


def _names(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _empty_folders(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_dir() and not any(path.iterdir()):
            yield path.relative_to(folder).as_posix()


def _described(path: Path) -> File:
    with path.open("rb") as stream:
        return File(bytes=path.stat().st_size, sha256=hashlib.file_digest(stream, "sha256").hexdigest())
