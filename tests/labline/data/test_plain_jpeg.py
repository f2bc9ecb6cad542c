"""The short way through a small JPEG gives what the long one gives, and leaves to it whatever is unusual."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labline.data import decoding
from labline.data.decoding import Decoded, Refusal, decode
from labline.data.plain_jpeg import decode_plain_jpeg

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def jpeg(image: Image.Image = PHOTO, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def long_way(encoded: bytes, channels: int = 3) -> Decoded | Refusal:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "decode_plain_jpeg", lambda *arguments: None)
        return decode(encoded, 32, channels, 10**6)


@pytest.mark.parametrize("options", [{}, {"quality": 30}, {"subsampling": 0}, {"optimize": True}, {"comment": b"x"}])
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_both_ways_give_the_same_pixels(options: dict[str, Any], mode: str, channels: int) -> None:
    encoded = jpeg(PHOTO.convert(mode), **options)
    short, long = decode_plain_jpeg(encoded, 32, channels), long_way(encoded, channels)
    assert short is not None and isinstance(long, Decoded)
    np.testing.assert_array_equal(short, long.pixels)


ORIENTED = Image.Exif()
ORIENTED[274] = 6


@pytest.mark.parametrize(
    "encoded",
    [
        jpeg(exif=ORIENTED),
        jpeg(progressive=True),
        jpeg(icc_profile=b"a profile"),
        jpeg(PHOTO.convert("CMYK")),
        jpeg(PHOTO.convert("L")),
        jpeg(PHOTO.resize((33, 32))),
        jpeg()[:-200],
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["oriented", "progressive", "profile", "CMYK", "grey", "larger", "cut off", "two bytes", "PNG"],
)
def test_the_unusual_is_left_to_the_long_way(encoded: bytes) -> None:
    assert decode_plain_jpeg(encoded, 32, 3) is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(jpeg()) - 1), st.integers(0, 255), st.integers(0, 40))
def test_a_damaged_file_is_judged_as_on_the_long_way(place: int, byte: int, cut: int) -> None:
    encoded = bytearray(jpeg())
    encoded[place] = byte
    damaged = bytes(encoded[: len(encoded) - cut])
    found, expected = decode(damaged, 32, 3, 10**6), long_way(damaged)
    if isinstance(found, Refusal) or isinstance(expected, Refusal):
        assert found == expected
    else:
        assert (found.width, found.height) == (expected.width, expected.height)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
