"""What a batch of samples is read from: listed once, then read in chunks that fit into memory.

A folder or .zip of images, a .csv of their paths, a .parquet of encoded images, an .npy of a model's inputs, or the
.csv or .parquet of a series.
"""

from __future__ import annotations

import csv
import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labline.data.image_files import ENCRYPTED, LITTER
from labline.errors import BadInput, nearest
from labline.packaged_model import Kind, TensorSpec

TABLES = (".csv", ".parquet", ".pq")
NAMES = ("id", "sample_id", "path", "file", "name")  # columns of a .parquet that say which image it is
IMAGE = "image"
SAMPLES_A_CHUNK = 512
BYTES_A_CHUNK = 32 * 2**20  # of a model's inputs


@dataclass(frozen=True)
class Chunk:
    """Some samples: the `start`th of the input and those after it.

    `names`: what the output calls them; empty where they are rows of an array, called by their number. `encoded`:
    the files themselves, None for none, where they are not read by name.
    """

    number: int
    start: int
    samples: int
    names: tuple[str, ...] = ()
    encoded: tuple[bytes | None, ...] | None = None


@dataclass(frozen=True)
class Listing:
    """Samples to be read.

    `content`: the folder or .zip that `names` lie in, or the one file that holds all. `column`: what identifies a
    sample in the output, path, id or row. `digest` changes when the input does. `chunk`: samples read at once.
    """

    content: Path
    column: str
    samples: int
    digest: str
    chunk: int
    names: Sequence[str] | None = None

    @property
    def chunks(self) -> int:
        """How many there are."""
        return -(-self.samples // self.chunk)

    def read(self, skipped: set[int]) -> Iterator[Chunk]:
        """All chunks in their order, except the numbers in `skipped`."""
        if self.names is None and self.column != "row":
            yield from _parquet_chunks(self, skipped)
            return
        for number in range(self.chunks):
            if number not in skipped:
                start = number * self.chunk
                names = tuple(self.names[start : start + self.chunk]) if self.names is not None else ()
                yield Chunk(number, start, min(self.chunk, self.samples - start), names)


def is_series_table(source: Path, kind: Kind) -> bool:
    """Whether it holds raw rows of a series, which features are computed from."""
    return kind == "series" and source.suffix.lower() in TABLES


def list_input(source: Path, kind: Kind, taken: TensorSpec) -> Listing:
    """List what lies at `source`, to be asked of a model that takes `taken`.

    Raises BadInput where there is nothing, it is of a kind that this model does not take, or there is no sample in it.
    """
    if not source.exists():
        raise BadInput(f"INPUT: there is nothing at {source.absolute()}; expected {_expected(kind)}")
    suffix = source.suffix.lower()
    size = int(np.prod([length or 1 for length in taken.shape[1:]])) * np.dtype(taken.dtype).itemsize
    chunk = max(1, min(SAMPLES_A_CHUNK, BYTES_A_CHUNK // size))
    if suffix == ".npy" and source.is_file():
        return _list_array(source, taken, chunk)
    if kind == "series":
        raise BadInput(f"INPUT: {source} is none that a forecaster takes; expected {_expected(kind)}")
    if source.is_dir():
        names, digest, content = *_list_folder(source), source
    elif suffix == ".zip":
        names, digest, content = *_list_archive(source), source
    elif suffix == ".csv":
        names, digest, content = *_list_paths(source), source.parent
    elif suffix in TABLES:
        return _list_parquet(source, chunk)
    else:
        raise BadInput(f"INPUT: {source} is none that a classifier takes; expected {_expected(kind)}")
    if not names:
        raise BadInput(f"INPUT: there is no file in {source}; expected {_expected(kind)}")
    return Listing(content, "path", len(names), digest, chunk, names)


def _expected(kind: Kind) -> str:
    if kind == "series":
        return "a .csv or .parquet of raw rows, or an .npy of windows, float32"
    return (
        "a folder or .zip of images, a .csv with a column path, a .parquet with a column image, or an .npy of pixels, "
        "uint8"
    )


def _list_folder(folder: Path) -> tuple[list[str], str]:
    """Paths below the folder, sorted; hidden files and what file managers leave behind are passed over."""
    names: list[str] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(place)
        known = (status.st_dev, status.st_ino) in seen  # a link that leads back up
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [] if known else [name for name in folders if not _is_litter(name)]
        inside = os.path.relpath(place, folder)
        found = [] if known else [name for name in files if not _is_litter(name)]
        names += found if inside == "." else [os.path.join(inside, name) for name in found]
    names.sort()
    return names, digest_of_files(folder, names)


def _list_archive(path: Path) -> tuple[list[str], str]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInput(f"INPUT: {path} cannot be opened as a .zip ({error})") from error
    if any(member.flag_bits & ENCRYPTED for member in members):
        raise BadInput(f"INPUT: {path} is encrypted; unpack it, or store it without a password")
    kept = [member for member in members if not any(map(_is_litter, member.filename.split("/")))]
    kept.sort(key=lambda member: member.filename)
    digest = hashlib.sha256()
    for member in kept:
        digest.update(f"{member.filename}\0{member.file_size}\0{member.CRC}\n".encode(errors="surrogateescape"))
    return [member.filename for member in kept], digest.hexdigest()


def _list_paths(path: Path) -> tuple[list[str], str]:
    """The column path of a .csv, relative to it."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            columns = {name.strip().lower(): name for name in rows.fieldnames or ()}
            if "path" not in columns:
                hint = nearest("path", columns) if columns else "it is empty"
                raise BadInput(f"{path}, row 1: the column 'path' is missing; {hint}")
            names = [(row[columns["path"]] or "").strip() for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read as CSV, in UTF-8: {error}") from error
    return names, digest_of_files(path.parent, names)


def _list_parquet(path: Path, chunk: int) -> Listing:
    file = _open_parquet(path)
    columns = file.schema_arrow.names
    if IMAGE not in columns:
        raise BadInput(f"{path} has no column {IMAGE!r} of encoded images; {nearest(IMAGE, columns)}")
    samples = file.metadata.num_rows
    if not samples:
        raise BadInput(f"{path} has no rows; expected one an image")
    return Listing(path, "id", samples, digest_of_files(path.parent, [path.name]), chunk)


def _list_array(path: Path, taken: TensorSpec, chunk: int) -> Listing:
    try:
        samples = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{path} cannot be read as .npy: {error}; expected {taken}") from error
    if problem := taken.mismatch(samples.view(np.ndarray)):
        raise BadInput(f"{path}: {problem}")
    if not len(samples):
        raise BadInput(f"{path} holds no sample; expected {taken}")
    return Listing(path, "row", len(samples), digest_of_files(path.parent, [path.name]), chunk)


def _parquet_chunks(listing: Listing, skipped: set[int]) -> Iterator[Chunk]:
    """Rows of a .parquet in order, as batches of it are read: a row group that holds all is never held at once."""
    file = _open_parquet(listing.content)
    name = next((column for column in NAMES if column in file.schema_arrow.names), None)
    columns = [IMAGE] if name is None else [IMAGE, name]
    start = 0
    batches = file.iter_batches(batch_size=listing.chunk, columns=columns)
    for number, table in enumerate(_exactly(batches, listing.chunk)):
        if number not in skipped:
            images = [_encoded(value) for value in table.column(IMAGE).to_pylist()]
            named = table.column(name).to_pylist() if name else range(start, start + len(images))
            yield Chunk(number, start, len(images), tuple(map(str, named)), tuple(images))
        start += table.num_rows


def _exactly(batches: Iterator[Any], rows: int) -> Iterator[Any]:
    """Tables of so many rows: batches end where a row group does."""
    import pyarrow as pa

    waiting: list[Any] = []
    for batch in batches:
        waiting.append(batch)
        while sum(each.num_rows for each in waiting) >= rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, rows)
            waiting = table.slice(rows).to_batches()
    if waiting:
        yield pa.Table.from_batches(waiting)


def _encoded(value: object) -> bytes | None:
    """An encoded file, given as such or, as Hugging Face's data sets do, under the key bytes."""
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else None


def _open_parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{path} cannot be read as .parquet: {error}") from error


def digest_of_files(folder: Path, names: Sequence[str]) -> str:
    """sha256 over the names, sizes and times of change of files: none of them is read."""
    digest = hashlib.sha256()
    for name in names:
        try:
            status = os.stat(folder / name)
            seen = f"{status.st_size}\0{status.st_mtime_ns}"
        except (OSError, ValueError):
            seen = "absent"
        digest.update(f"{name}\0{seen}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER
