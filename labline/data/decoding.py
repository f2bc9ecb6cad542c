"""One encoded file to one square uint8 image, or the reason why not."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from labline.data.plain_jpeg import decode_plain_jpeg

RefusalKind = Literal[
    "empty", "not-an-image", "corrupt", "truncated", "too-large", "unsupported-pixels", "missing", "unreadable"
]

# An allow-list: Pillow also knows formats that start other programs (EPS), and no data set is stored in those.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)  # of the files worth opening, in lower case
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # undoes an EXIF orientation (Exif 2.32, tag 0x0112); 1 is upright

_pillow_limit = threading.Lock()


@dataclass(frozen=True)
class Refusal:
    """Why a file is not taken: its kind, the value that shows it, and a sentence for people."""

    kind: RefusalKind
    value: str
    reason: str


@dataclass(frozen=True)
class Decoded:
    """An image as it is stored, and the size that its file gives.

    `pixels`: uint8 height x width x channels; `width`, `height`: in pixels, of the original.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int


class _UnknownRangeError(ValueError):
    """The type of the pixels does not say which value is white."""


def decode(
    encoded: bytes, image_size: int, channels: int, max_pixels: int, formats: tuple[str, ...] = FORMATS
) -> Decoded | Refusal:
    """Decode a file to a square of `image_size` pixels and 1 or 3 channels, or say why not; never raises.

    The number of pixels is checked against `max_pixels` in the header, before memory is asked for. Applied:
    EXIF orientation; transparency over white; 16-bit greys to their upper 8 bits; the first frame of many.
    `formats` are those of FORMATS that are taken.
    """
    if not encoded:
        return Refusal("empty", "0 bytes", "the file is empty")
    if "JPEG" in formats and image_size * image_size <= max_pixels:
        pixels = decode_plain_jpeg(encoded, image_size, channels)
        if pixels is not None:
            return Decoded(pixels, image_size, image_size)
    try:
        with _open_header(encoded, formats) as image:
            width, height = image.size
            if tile := _tile_pixels(image, max_pixels):
                return Refusal("too-large", str(tile), f"a tile of {tile} pixels is more than {max_pixels} pixels")
            if width * height > max_pixels:
                reason = f"{width} x {height} pixels are more than data.max_pixels = {max_pixels}"
                return Refusal("too-large", str(width * height), reason)
            return Decoded(to_square(image, image_size, channels), width, height)
    except UnidentifiedImageError:
        return Refusal("not-an-image", repr(encoded[:16]), "its first bytes are those of no image format known here")
    except _UnknownRangeError as error:
        return Refusal("unsupported-pixels", str(error), "its pixels have no agreed range: convert it to 8 or 16 bits")
    except Exception as error:  # hostile bytes make decoders raise nearly anything; all of it tells of the file
        kind: RefusalKind = "truncated" if "truncated" in str(error).lower() else "corrupt"
        return Refusal(kind, type(error).__name__, f"its pixels could not be decoded: {error}")


def to_square(image: Image.Image, image_size: int, channels: int) -> npt.NDArray[np.uint8]:
    """A Pillow image as uint8 `image_size` x `image_size` x `channels` (1: grey, ITU-R 601 luma; 3: RGB).

    Width and height are scaled each on its own, with an antialiasing triangle filter; nothing is cropped.
    """
    mode = "L" if channels == 1 else "RGB"
    # A JPEG decodes at 1/2, 1/4 or 1/8 of its size for a fraction of the cost; twice the target keeps the detail.
    image.draft(mode, (2 * image_size, 2 * image_size))
    image.load()
    turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    square = _opaque(_eight_bits(image), mode)
    if square.size != (image_size, image_size):
        # reducing_gap = 3 is "almost indistinguishable" from one pass (Pillow's documentation), and faster.
        square = square.resize((image_size, image_size), Image.Resampling.BILINEAR, reducing_gap=3.0)
    if turn is not None:
        square = square.transpose(turn)
    return np.asarray(square).reshape(image_size, image_size, channels)


def _open_header(encoded: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Read the header only; Pillow's process-wide limit on pixels is set aside, for `max_pixels` is ours."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(encoded), formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _tile_pixels(image: Image.Image, max_pixels: int) -> int:
    """The pixels of one tile of a TIFF where they are too many: libtiff asks for a whole one, however small the image.

    0 for any other. TileWidth and TileLength are the tags 322 and 323 (TIFF 6.0, section 15).
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    pixels = int(image.tag_v2.get(322, 0)) * int(image.tag_v2.get(323, 0))
    return pixels if pixels > max_pixels else 0


def _eight_bits(image: Image.Image) -> Image.Image:
    """Images of deeper greys in 8 bits, all others as they are."""
    if image.mode == "F":
        raise _UnknownRangeError("32-bit float")
    if not image.mode.startswith("I"):
        return image
    deep = np.asarray(image)
    if deep.min() < 0 or deep.max() > 65_535:
        raise _UnknownRangeError("32-bit integer")
    return Image.fromarray((deep >> 8).astype(np.uint8))


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    """The image in `mode`; what is transparent shows white, as on a page, not the colour hidden beneath."""
    if not image.has_transparency_data:
        return image.convert(mode)
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert(mode)
