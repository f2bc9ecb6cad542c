"""Reading `.npy` bodies: a header in Python's literal syntax, then the numbers; nothing of it is run or believed."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.limits import Refused

LONGEST_HEADER = 1024  # characters; NumPy writes about 100 for an array of numbers
MOST_AXES = 4
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npy(body: bytes, dtype: str, expected: str) -> npt.NDArray[Any]:
    """The array in a .npy body (format 1.0 or 2.0), contiguous and of `dtype` (NumPy's name), in native byte order.

    A view of the body where that is in C order and native byte order. The shape is held against the length of the body
    before anything is made of it. Raises Refused (422, naming what was `expected`) for any other dtype, objects above
    all, which are never unpickled.
    """
    try:
        start = _start(body)
        shape, fortran_order, found = _header(body[:start])
    except Exception:  # a hostile header makes the parser raise nearly anything; all of it tells of the header
        raise Refused(422, f"the body is no .npy of format 1.0 or 2.0; expected {expected}") from None
    if found.newbyteorder("=") != np.dtype(dtype):
        raise Refused(422, f"the array has dtype {str(found)[:100]!r}; expected {expected}")
    count = math.prod(shape)
    if len(shape) > MOST_AXES or min(shape, default=0) < 0 or count * found.itemsize != len(body) - start:
        raise Refused(
            422,
            f"the header promises {' x '.join(map(str, shape))[:100]} numbers of {found.itemsize} bytes, and "
            f"{len(body) - start:,} bytes follow it",
        )
    flat = np.frombuffer(body, found, count, start)
    array = flat.reshape(shape[::-1]).transpose() if fortran_order else flat.reshape(shape)
    return np.ascontiguousarray(array, np.dtype(dtype))


def _start(body: bytes) -> int:
    """Where the numbers begin: the length of the header is told in 2 bytes by format 1.0, in 4 by 2.0."""
    size = {1: 2, 2: 4}[body[6]]
    length = int.from_bytes(body[8 : 8 + size], "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"a header of {length} characters")
    return 8 + size + length


@lru_cache(maxsize=64)
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype; remembered, for a client sends the same header again and again."""
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = READERS[version](file, LONGEST_HEADER)
    return found
