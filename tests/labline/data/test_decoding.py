from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from labline.data.decoding import FORMATS, Decoded, Refusal, decode

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decoded(encoded: bytes, channels: int = 3) -> Decoded:
    outcome = decode(encoded, image_size=32, channels=channels, max_pixels=1_000_000)
    assert isinstance(outcome, Decoded), outcome
    return outcome


def pixels(encoded: bytes, channels: int = 3) -> npt.NDArray[np.uint8]:
    return decoded(encoded, channels).pixels


def refusal(encoded: bytes) -> Refusal:
    outcome = decode(encoded, image_size=32, channels=3, max_pixels=1_000_000)
    assert isinstance(outcome, Refusal)
    return outcome


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises pixels that its data do not hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_becomes_a_square_and_keeps_the_size_of_the_original(image_format: str, channels: int) -> None:
    outcome = decoded(encode(PHOTO, image_format), channels)
    assert (outcome.width, outcome.height) == (60, 40)
    assert outcome.pixels.shape == (32, 32, channels) and outcome.pixels.dtype == np.uint8
    assert outcome.pixels.mean() == pytest.approx(np.asarray(PHOTO).mean(), abs=3)


def test_an_image_of_the_stored_size_is_not_touched() -> None:
    square = PHOTO.crop((0, 0, 32, 32))
    assert np.array_equal(pixels(encode(square, "PNG")), np.asarray(square))


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "GIF"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("YCbCr", "TIFF")],
)
def test_every_pixel_type_shows_the_same_picture(mode: str, image_format: str) -> None:
    half_black = Image.new("RGB", (64, 64), "white")
    half_black.paste("black", (0, 0, 32, 64))
    shown = pixels(encode(half_black.convert(mode), image_format))
    assert shown[:, :14].max() <= 2 and shown[:, 18:].min() >= 253


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_deep_greys_are_scaled_not_clipped(image_format: str) -> None:
    ramp = np.linspace(0, 65_535, 32 * 32).reshape(32, 32)
    deep = encode(Image.fromarray(ramp.astype(np.uint16)), image_format)
    assert np.array_equal(pixels(deep, channels=1)[..., 0], (ramp.astype(np.uint16) >> 8).astype(np.uint8))


def test_pixels_without_an_agreed_range_are_refused() -> None:
    assert refusal(encode(Image.new("F", (8, 8), 0.5), "TIFF")).kind == "unsupported-pixels"


def test_transparency_shows_white_and_not_the_hidden_colour() -> None:
    hidden = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert pixels(encode(hidden, "PNG")).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_exif_orientation_is_applied_as_pillow_does(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(PHOTO.crop((0, 0, 32, 32)), image_format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    assert np.array_equal(pixels(encoded), np.asarray(upright))


def test_large_jpegs_are_decoded_at_a_fraction_and_look_the_same() -> None:
    smooth = PHOTO.resize((1000, 900), Image.Resampling.BICUBIC)
    through_jpeg, exact = pixels(encode(smooth, "JPEG", quality=95)), pixels(encode(smooth, "PNG"))
    assert np.abs(through_jpeg.astype(int) - exact.astype(int)).mean() < 4


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    bomb = png_of(30_000, 30_000)
    tracemalloc.start()
    outcome = refusal(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outcome.kind == "too-large" and outcome.value == "900000000" and "data.max_pixels" in outcome.reason
    assert peak < 1_000_000


def test_the_declared_limit_replaces_pillows_and_leaves_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)  # with 2,400 pixels Pillow alone raises an error
    assert decoded(encode(PHOTO, "PNG")).width == 60
    assert Image.MAX_IMAGE_PIXELS == 1_000


@pytest.mark.parametrize(
    ("encoded", "kind"),
    [
        (b"", "empty"),
        (b"this is a text named .jpg", "not-an-image"),
        (b"%PDF-1.7", "not-an-image"),
        (encode(PHOTO, "JPEG")[:-200], "truncated"),
        (encode(PHOTO, "PNG")[:-200], "truncated"),
        (encode(PHOTO, "JPEG2000")[:-200], "corrupt"),
    ],
)
def test_what_is_no_whole_image_is_refused_with_its_kind(encoded: bytes, kind: str) -> None:
    outcome = refusal(encoded)
    assert outcome.kind == kind and outcome.reason


@settings(max_examples=150, deadline=None)
@given(
    image_format=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]),
    position=st.floats(0, 1),
    noise=st.binary(min_size=1, max_size=8),
)
def test_damaged_bytes_never_raise(image_format: str, position: float, noise: bytes) -> None:
    whole = encode(PHOTO, image_format)
    start = int(position * (len(whole) - len(noise)))
    damaged = whole[:start] + noise + whole[start + len(noise) :]
    assert isinstance(decode(damaged, 32, 3, 1_000_000), Decoded | Refusal)


def test_a_tiff_whose_tile_is_larger_than_allowed_is_refused_in_the_header() -> None:
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: 64_000, 323: 32_000, 324: 134, 325: 256}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    tiled = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4 + 256)
    refused = refusal(tiled)
    assert (refused.kind, refused.value) == ("too-large", "2048000000")


def test_formats_can_be_fewer() -> None:
    assert isinstance(decode(encode(PHOTO, "PNG"), 32, 3, 10_000, ("PNG", "JPEG")), Decoded)
    refused = decode(encode(PHOTO, "AVIF"), 32, 3, 10_000, ("PNG", "JPEG"))
    assert isinstance(refused, Refusal) and refused.kind == "not-an-image"
