"""A model's input as the feedback store keeps it: a file that anybody can open, npy or PNG."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

PNG, NPY = b"\x89PNG", b"\x93NUMPY"
CHANNELS = (1, 3, 4)  # what a PNG can hold of 8 bits each: grey, colour, colour with transparency
# Making a PNG costs the service more than all else it does for a small image, and sensor noise hardly compresses: of
# a 32 x 32 image's 3,072 bytes 2,800 remain.
LARGEST_NPY_IMAGE = 16 * 1024
PNG_EFFORT = 1  # 2,795 of those bytes remain at the usual 6

Array = npt.NDArray[Any]


def encode_input(content: bytes, dtype: str, shape: tuple[int, ...]) -> bytes:
    """One input of a model, `content` its elements row by row: npy, or PNG of an image of more than 16 KiB."""
    if len(content) > LARGEST_NPY_IMAGE and _is_image(np.dtype(dtype), shape):
        return to_png(np.frombuffer(content, dtype).reshape(shape))
    return _npy_header(dtype, shape) + content


def decode_input(kept: bytes) -> Array:
    """The input that is kept: uint8 H x W x C of an image, T x F of a window. Raises ValueError for anything else."""
    if kept.startswith(PNG):
        from PIL import Image

        image: Array = np.asarray(Image.open(io.BytesIO(kept)))
    else:
        image = np.load(io.BytesIO(kept), allow_pickle=False)
    return image[..., None] if image.dtype == np.uint8 and image.ndim == 2 else image


def is_picture(kept: bytes) -> bool:
    """Whether what is kept is an image: all that is uint8 and has an image's shape."""
    if not kept.startswith(NPY):
        return kept.startswith(PNG)
    file = io.BytesIO(kept)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return _is_image(dtype, shape)


def as_png(kept: bytes) -> bytes:
    """An image that is kept, as a PNG."""
    return kept if kept.startswith(PNG) else to_png(decode_input(kept))


def to_png(image: Array) -> bytes:
    """A PNG of a uint8 image, H x W or H x W x C of 1, 3 or 4 channels."""
    from PIL import Image

    file = io.BytesIO()
    flat = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    Image.fromarray(flat).save(file, "PNG", compress_level=PNG_EFFORT)
    return file.getvalue()


def _is_image(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    return dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[2] in CHANNELS))


@lru_cache(maxsize=64)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()
