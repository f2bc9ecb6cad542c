"""Fills `images.npy`: from a folder or archive of encoded files, by all processors, or from an array.

Kept free of pandas and torch: the decoding processes import this module alone, and so start quickly.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from labline.data.decoding import Refusal, decode, to_square
from labline.errors import LablineError
from labline.sharding import Pool, processes, processors, refuse_elsewhere

Images = npt.NDArray[np.uint8]
Read = Callable[[str], bytes | Refusal]
Progress = Callable[[int, int], None]

BATCH_FILES = 500
BATCH_BYTES = 8 * 2**20  # of stored pixels: bounds the memory of a decoding process
STATISTICS_PIXELS = 2**16  # at a time: as floats they stay in the processor's cache
PARALLEL_FILES = 2_000  # with fewer files and
PARALLEL_BYTES = 64 * 2**20  # fewer bytes than these, starting processes costs more than it gains
BYTES_PER_PIXEL = 8  # as 16-bit RGBA: a file larger than its pixels could ever be is not read


@dataclass(frozen=True)
class Facts:
    """What one sample's bytes tell the manifest.

    `width`, `height` (pixels) and `bytes` are of the original; `mean` and `std` of the stored pixels, 0 to 255;
    `sha256` of the encoded file, or of the pixels where the source is an array.
    """

    sha256: str
    width: int
    height: int
    bytes: int
    mean: float
    std: float


@dataclass(frozen=True)
class Job:
    """What every decoding process knows: `container` (folder or .zip), the array's path, how to decode."""

    container: Path
    images: Path
    image_size: int
    channels: int
    max_pixels: int


@dataclass(frozen=True)
class _Batch:
    """Files to be decoded into the rows of the array from `first_row` on."""

    files: tuple[str, ...]
    first_row: int


def store_files(
    job: Job,
    files: Sequence[str],
    workers: int | None = None,
    on_progress: Progress | None = None,
    pool: Pool | None = None,
) -> list[Facts | Refusal]:
    """Decode `files` of the container into a new array, one row a file; the row of a refused file stays black.

    The result is in the order of `files` and the same for any number of `workers` (default: the processors
    this process may use), and for a `pool` that does it in their stead: its processes find container and array under
    the same paths. Raises OSError where the array finds no room, LablineError where a process dies.
    """
    _create_array(job.images, len(files), job.image_size, job.channels)
    size = _batch_size(job.image_size, job.channels)
    batches = [_Batch(tuple(files[row : row + size]), row) for row in range(0, len(files), size)]
    own = processes(min(_workers_for(job, files) if workers is None else workers, len(batches)))
    outcomes: list[Facts | Refusal] = []
    try:
        with own if pool is None else nullcontext(pool) as working:
            for decoded in working.over(_decoding, job, batches):
                outcomes += decoded
                if on_progress is not None:
                    on_progress(len(outcomes), len(files))
    except BrokenExecutor as error:
        raise LablineError(
            f"A process decoding {job.container} died, most likely for want of memory. "
            "Lower data.max_pixels, or decode in fewer processes."
        ) from error
    return outcomes


def store_array(
    images: Images, path: Path, image_size: int, channels: int, on_progress: Progress | None = None
) -> list[Facts]:
    """Write `images`, uint8 NHW or NHWC of 1 or 3 channels and any size, as a new array of squares."""
    _create_array(path, len(images), image_size, channels)
    stored_NHWC = np.lib.format.open_memmap(path, mode="r+")
    size = _batch_size(image_size, channels)
    height, width = images.shape[1:3]
    facts: list[Facts] = []
    for row in range(0, len(images), size):
        batch = np.ascontiguousarray(images[row : row + size])
        stored_NHWC[row : row + size] = squares_NHWC = _to_squares(batch, image_size, channels)
        means, stds = pixel_statistics(squares_NHWC)
        digests = [hashlib.sha256(image).hexdigest() for image in batch]
        facts += [
            Facts(sha256, width, height, batch[0].nbytes, float(mean), float(std))
            for sha256, mean, std in zip(digests, means, stds, strict=True)
        ]
        if on_progress is not None:
            on_progress(len(facts), len(images))
    return facts


def pixel_statistics(images_NHWC: Images) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and (population) standard deviation of each image's pixels, both N, on the 0 to 255 scale."""
    pixels_ND = images_NHWC.reshape(len(images_NHWC), -1)
    means_N, stds_N = np.empty((2, len(pixels_ND)), np.float32)
    images = max(1, STATISTICS_PIXELS // max(1, pixels_ND.shape[1]))
    for first in range(0, len(pixels_ND), images):
        part = slice(first, first + images)
        floats_ND = pixels_ND[part].astype(np.float32)
        means_N[part], stds_N[part] = floats_ND.mean(axis=1), floats_ND.std(axis=1)
    return means_N, stds_N


def _to_squares(images: Images, image_size: int, channels: int) -> Images:
    """uint8 NHW or NHWC to uint8 NHWC of the stored size and channels."""
    images_NHWC = images[..., None] if images.ndim == 3 else images
    if images_NHWC.shape[1:3] == (image_size, image_size) and images_NHWC.shape[3] in (1, channels):
        return np.broadcast_to(images_NHWC, (*images_NHWC.shape[:3], channels))
    drawn = (Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels) for pixels in images_NHWC)
    return np.stack([to_square(image, image_size, channels) for image in drawn])


def _create_array(path: Path, rows: int, image_size: int, channels: int) -> None:
    """Reserve the whole array at once: a full disk is an OSError now, not a fatal signal (SIGBUS) while writing."""
    shape = (rows, image_size, image_size, channels)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _batch_size(image_size: int, channels: int) -> int:
    return max(1, min(BATCH_FILES, BATCH_BYTES // (image_size * image_size * channels)))


# --- files -------------------------------------------------------------------------------------------------------


def _workers_for(job: Job, files: Sequence[str]) -> int:
    """One process where the work is small, else as many as there are processors to use."""
    if len(files) < PARALLEL_FILES and _encoded_bytes(job.container, files) < PARALLEL_BYTES:
        return 1
    return processors()


def _encoded_bytes(container: Path, files: Sequence[str]) -> int:
    if container.is_file():
        return container.stat().st_size
    paths = (container / name for name in files)
    return sum(path.stat().st_size for path in paths if path.is_file())


@contextmanager
def open_container(container: Path, max_pixels: int) -> Iterator[Read]:
    """Open a folder or .zip and give a function from a file's name to its bytes, or to the reason why not."""
    limit = max_pixels * BYTES_PER_PIXEL
    if container.is_dir():
        yield lambda name: _read_file(container / name, limit)
        return
    with zipfile.ZipFile(container) as archive:
        yield lambda name: _read_member(archive, name, limit)


def _read_file(path: Path, limit: int) -> bytes | Refusal:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Refusal("unreadable", stat.filemode(status.st_mode), "it is not a regular file")
        return _too_long(status.st_size) if status.st_size > limit else path.read_bytes()
    except FileNotFoundError:
        return Refusal("missing", str(path), "there is no such file")
    except OSError as error:
        return Refusal("unreadable", type(error).__name__, f"it could not be read: {error.strerror}")


def _read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes | Refusal:
    """Into memory, never onto disk: a member's name cannot lead out of anywhere."""
    try:
        size = archive.getinfo(name).file_size
        return _too_long(size) if size > limit else archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        return Refusal("corrupt", type(error).__name__, f"its place in the archive is damaged: {error}")
    except (NotImplementedError, RuntimeError) as error:
        return Refusal("unreadable", type(error).__name__, f"it could not be unpacked: {error}")


def _too_long(size: int) -> Refusal:
    return Refusal("too-large", f"{size} bytes", "it is longer than an image of data.max_pixels can be")


def _decode_batch(job: Job, read: Read, batch: _Batch) -> list[Facts | Refusal]:
    """Decode a batch into its rows of the array; the facts of each file, or its refusal."""
    images_NHWC = np.zeros((len(batch.files), job.image_size, job.image_size, job.channels), np.uint8)
    found: list[tuple[str, int, int, int] | Refusal] = []
    for pixels_HWC, name in zip(images_NHWC, batch.files, strict=True):
        encoded = read(name)
        if isinstance(encoded, Refusal):
            found.append(encoded)
            continue
        decoded = decode(encoded, job.image_size, job.channels, job.max_pixels)
        if isinstance(decoded, Refusal):
            found.append(decoded)
            continue
        pixels_HWC[...] = decoded.pixels
        found.append((hashlib.sha256(encoded).hexdigest(), decoded.width, decoded.height, len(encoded)))
    _write_rows(job.images, batch.first_row, images_NHWC)
    means, stds = pixel_statistics(images_NHWC)
    return [
        facts if isinstance(facts, Refusal) else Facts(*facts, float(mean), float(std))
        for facts, mean, std in zip(found, means, stds, strict=True)
    ]


def _write_rows(path: Path, first_row: int, images_NHWC: Images) -> None:
    """Write rows of the array: exactly their bytes, for a page of a memory map may hold another machine's rows too."""
    stored_NHWC = np.lib.format.open_memmap(path, mode="r")
    with path.open("r+b") as file:
        file.seek(stored_NHWC.offset + first_row * stored_NHWC.strides[0])
        file.write(images_NHWC.tobytes())


@contextmanager
def _decoding(job: Job) -> Iterator[Callable[[_Batch], list[Facts | Refusal]]]:
    """Hold the container open for batches to be decoded."""
    refuse_elsewhere(job.images)
    with open_container(job.container, job.max_pixels) as read:
        yield partial(_decode_batch, job, read)
