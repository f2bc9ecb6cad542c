"""Labelled feedback that joins a data set: images that production saw, with what turned out to be true of them.

One .npz without pickle: `ids` (of the predictions), `labels`, `splits` (train, validation or test: they stand),
`images` uint8 N x H x W x C as the model took them, and `widths`, `heights`, `bytes` of what was sent.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.data.dataset import MANIFEST_COLUMNS
from labline.data.storing import pixel_statistics
from labline.errors import BadInput
from labline.feedback.inputs import decode_input

Images = npt.NDArray[np.uint8]

SOURCE = "feedback"  # in the manifest's column `source`, where evaluation makes a slice of it
PREFIX = f"{SOURCE}/"  # of a sample's id; the prediction's follows
KEYS = ("ids", "labels", "splits", "images", "widths", "heights", "bytes")
ROWS_AT_ONCE = 4096


def write_feedback(rows: pd.DataFrame, inputs: Mapping[str, bytes], folder: Path) -> Path:
    """Write `rows` (id, label, split and, where known, width, height and bytes), N, with their `inputs` as kept.

    The file lies in a folder of `folder` that is named by its content: the same content is written once. Returns its
    path. Raises BadInput where images have different shapes.
    """
    images_NHWC = _decoded([inputs[id] for id in rows["id"]])
    height, width = images_NHWC.shape[1:3]
    size = images_NHWC[0].nbytes
    of_file = {"widths": ("width", width), "heights": ("height", height), "bytes": ("bytes", size)}
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "ids": rows["id"].to_numpy(dtype=np.str_),
        "labels": rows["label"].to_numpy(dtype=np.str_),
        "splits": rows["split"].to_numpy(dtype=np.str_),
        "images": images_NHWC,
        **{key: _known(rows, column, usual) for key, (column, usual) in of_file.items()},
    }
    digest = hashlib.sha256()
    for key in KEYS:
        digest.update(f"{key} {arrays[key].shape} {arrays[key].dtype}\0".encode() + arrays[key].tobytes())
    path = folder / digest.hexdigest()[:20] / "feedback.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)
    return path


def join_feedback(manifest: pd.DataFrame, array: Path, feedback: Path, labels: Sequence[str]) -> pd.DataFrame:
    """The manifest with the rows of `feedback` added, whose images are added to the .npy file `array`.

    Raises BadInput where there is no such file, its images have another shape or its labels are others.
    """
    found = _read(feedback)
    known = set(labels)
    strangers = sorted({str(label) for label in found["labels"]} - known)
    if strangers:
        raise BadInput(f"data.feedback: {feedback} has the class {strangers[0]!r}; known are {', '.join(labels)}")
    images_NHWC: Images = found["images"].astype(np.uint8, copy=False)
    first = _extend(array, images_NHWC, feedback)
    means, stds = pixel_statistics(images_NHWC)
    added = pd.DataFrame(
        {
            "sample_id": [f"{PREFIX}{id}" for id in found["ids"]],
            "split": found["splits"].astype(object),
            "label": found["labels"].astype(object),
            "row": first + np.arange(len(images_NHWC)),
            "source": SOURCE,
            "sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images_NHWC],
            "width": found["widths"],
            "height": found["heights"],
            "bytes": found["bytes"],
            "mean": means,
            "std": stds,
        }
    )
    return pd.concat([manifest[list(MANIFEST_COLUMNS)], added[list(MANIFEST_COLUMNS)]], ignore_index=True)


def _decoded(encoded: Sequence[bytes]) -> Images:
    """Images as they are kept of a model's input, uint8 N x H x W x C."""
    images = [decode_input(content) for content in encoded]
    if len({image.shape for image in images}) != 1:
        raise BadInput("the kept inputs have different shapes: they are of models that take different images")
    return np.stack(images)


def _known(rows: pd.DataFrame, column: str, usual: int) -> npt.NDArray[np.int64]:
    values = rows[column] if column in rows else pd.Series(np.nan, index=rows.index)
    return np.asarray(values.fillna(usual), dtype=np.int64)


def _read(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in KEYS}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(
            f"data.feedback: {path} cannot be read ({error}); expected the feedback.npz that labline retrain wrote. "
            "Where it is gone, retrain again"
        ) from error


def _extend(array: Path, images_NHWC: Images, feedback: Path) -> int:
    """Add images to an array on disk; returns the row of the first one."""
    stored_NHWC = np.load(array, mmap_mode="r")
    rows = len(stored_NHWC)
    if images_NHWC.shape[1:] != stored_NHWC.shape[1:]:
        raise BadInput(
            f"data.feedback: {feedback} has images of {images_NHWC.shape[1:]}, the data of {stored_NHWC.shape[1:]}; "
            "keep data.image_size and data.channels"
        )
    longer = array.with_suffix(".longer.npy")
    shape = (rows + len(images_NHWC), *stored_NHWC.shape[1:])
    longer_NHWC = np.lib.format.open_memmap(longer, mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, rows, ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, rows))
        longer_NHWC[part] = stored_NHWC[part]
    longer_NHWC[rows:] = images_NHWC
    longer_NHWC.flush()
    os.replace(longer, array)
    return rows
