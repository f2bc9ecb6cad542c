"""Bodies that a service must survive: thousands of damaged ones, and bombs that are small and ask for much.

All are for an image model of 48 x 48 x 1; the same seed gives the same bodies.
"""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from PIL import Image

RAW, NPY = "application/octet-stream", "application/x-npy"
ARROW, JSON = "application/vnd.apache.arrow.stream", "application/json"
FORMATS = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "BMP": "image/bmp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
    "JPEG2000": "image/jp2",
}
SIZE = 48
PIXELS = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 1), dtype=np.uint8)
WRONG_NUMBERS = (b"NaN", b"-1", b"256", b"1e400", b"0.5", b"null", b'"7"', b"true", b"9" * 400, b"[]", b"{}", b"-0.0")

Body = tuple[bytes, str]  # and its content type


def encode(pixels: np.ndarray, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, image_format, **options)
    return buffer.getvalue()


def as_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def as_arrow(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def as_json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def valid() -> list[Body]:
    """A body of every kind that is taken."""
    png, raw = encode(PIXELS, "PNG"), PIXELS.tobytes()
    return [
        *((encode(PIXELS, image_format), media) for image_format, media in FORMATS.items()),
        (raw, RAW),
        (raw * 3, RAW),
        (as_npy(PIXELS), NPY),
        (as_npy(np.stack([PIXELS, PIXELS])), NPY),
        (as_arrow(pa.table({"image": pa.array([raw, raw], pa.binary(len(raw)))})), ARROW),
        (as_arrow(pa.table({"image": [png, png]})), ARROW),
        (as_json({"instances": [PIXELS.tolist()]}), JSON),
        (as_json({"instances": [{"b64": base64.b64encode(png).decode()}]}), JSON),
    ]


def malformed(count: int = 10_000, seed: int = 0) -> Iterator[Body]:
    """Damaged bodies: cut, overwritten, doubled, spliced, under another content type; some damage does no harm."""
    dice = random.Random(seed)
    bodies = valid()
    for _ in range(count):
        body, media = dice.choice(bodies)
        damage = dice.choice([cut, flip, overwrite, insert, double, splice, swap_type, noise, wrong_number])
        yield damage(dice, body, media, bodies)


def cut(dice: random.Random, body: bytes, media: str, _: list[Body]) -> Body:
    return body[: dice.randrange(len(body))], media


def flip(dice: random.Random, body: bytes, media: str, _: list[Body]) -> Body:
    damaged = bytearray(body)
    for _ in range(dice.choice([1, 1, 2, 8, 64])):
        # Headers, where lengths and sizes stand, are at the beginning.
        damaged[dice.randrange(len(body) if dice.random() < 0.5 else min(len(body), 128))] ^= 1 << dice.randrange(8)
    return bytes(damaged), media


def overwrite(dice: random.Random, body: bytes, media: str, _: list[Body]) -> Body:
    """Sizes and offsets become the largest, the smallest, or anything."""
    number = dice.choice([b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", dice.randbytes(4)])
    place = dice.randrange(min(len(body), 256))
    return body[:place] + number + body[place + 4 :], media


def insert(dice: random.Random, body: bytes, media: str, _: list[Body]) -> Body:
    place = dice.randrange(len(body))
    return body[:place] + dice.randbytes(dice.choice([1, 2, 16, 1000])) + body[place:], media


def double(dice: random.Random, body: bytes, media: str, _: list[Body]) -> Body:
    start, end = sorted(dice.sample(range(len(body)), 2))
    return body[:end] + body[start:], media


def splice(dice: random.Random, body: bytes, media: str, bodies: list[Body]) -> Body:
    other, _ = dice.choice(bodies)
    return body[: dice.randrange(len(body))] + other[dice.randrange(len(other)) :], media


def swap_type(dice: random.Random, body: bytes, media: str, bodies: list[Body]) -> Body:
    others = [*{other for _, other in bodies}, "", "text/plain", "image/svg+xml", "image/x-eps", "multipart/form-data"]
    return body, dice.choice([*sorted(others), "application/json;" * 100, "image/png; charset=\x00"])


def noise(dice: random.Random, body: bytes, media: str, _: list[Body]) -> Body:
    return dice.randbytes(dice.choice([0, 1, 7, 100, 5000])), media


def wrong_number(dice: random.Random, body: bytes, media: str, _: list[Body]) -> Body:
    """JSON in which one pixel is none."""
    text = as_json({"instances": [PIXELS[:, :, :].tolist()]})
    places = [place for place in range(0, len(text), 97) if text[place : place + 1].isdigit()]
    place = dice.choice(places)
    return text[:place] + dice.choice(WRONG_NUMBERS) + text[place + 1 :], JSON


# --- bombs -------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, compressed: bytes, *chunks: bytes, colour: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


def directory(tags: dict[int, tuple[int, int, int]], data: bytes = b"") -> bytes:
    """A TIFF of one directory: tag to (type, count, value or offset); the data follow it."""
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def tiff_of_tags(count: int, size: int) -> bytes:
    """Thousands of tags that all claim the same bytes."""
    place = 14 + 12 * (count + 8)
    basic = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: place, 278: 16, 279: 256}
    tags = {tag: (4, 1, value) for tag, value in basic.items()}
    tags |= {30_000 + tag: (7, size, place) for tag in range(count)}
    return directory(tags, bytes(size))


def tiff_of_a_tile() -> bytes:
    """16 x 16 pixels in a tile of 2 GB, deflated."""
    tile = zlib.compress(bytes(10**7))
    tags = {256: (4, 1, 16), 257: (4, 1, 16), 258: (3, 1, 8), 259: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1)}
    tags |= {322: (4, 1, 64_000), 323: (4, 1, 32_000), 324: (4, 1, 14 + 12 * 10), 325: (4, 1, len(tile))}
    return directory(tags, tile)


def bmp_of_runs(count: int) -> bytes:
    """4000 x 4000 pixels, one by one."""
    header = struct.pack("<IHHI", 100, 0, 0, 54 + 1024) + struct.pack("<IiiHHIIiiII", 40, 4000, 4000, 1, 8, 1, *[0] * 5)
    return b"BM" + header + bytes(1024) + b"\x01\x02" * count


def lying_avif() -> bytes:
    """16 million pixels in a container that promises 48 x 48."""
    picture = encode(np.zeros((4096, 4096), np.uint8), "AVIF", speed=10)
    place = picture.index(b"ispe") + 8  # ISO/IEC 23008-12, 6.5.3: version and flags, width, height
    return picture[:place] + struct.pack(">II", 48, 48) + picture[place + 8 :]


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG of 4 million pixels, whose last scan is said over and over."""
    picture = encode(np.zeros((2048, 2048), np.uint8), "JPEG", progressive=True)
    last = picture[picture.rindex(b"\xff\xda") : -2]
    return picture[:-2] + last * count + b"\xff\xd9"


def gif_of(frames: int, comments: int = 0) -> bytes:
    picture = encode(PIXELS, "GIF")
    start = picture.index(b"\x2c" + bytes(4) + struct.pack("<HH", SIZE, SIZE))
    comment = b"\x21\xfe" + (b"\xff" + b"x" * 255) * comments + b"\x00" if comments else b""
    return picture[:start] + comment + picture[start:-1] * frames + b"\x3b"


def arrow_bomb() -> bytes:
    """Compressed zeros: 8 MiB in a few kilobytes."""
    zeros = pa.array([bytes(SIZE * SIZE)] * 4000, pa.binary(SIZE * SIZE))
    return as_arrow(pa.table({"image": zeros}), "zstd")


def bombs() -> dict[str, Body]:
    """Bodies that are small beside what they ask for, by what they are."""
    zeros = zlib.compress(bytes(64 * 2**20))
    text = b"key\x00\x00" + zeros
    return {
        "1e9 pixels in the header": (png(31_623, 31_623, zlib.compress(bytes(1000))), "image/png"),
        "4e18 pixels in the header": (png(2**31 - 1, 2**31 - 1, b""), "image/png"),
        "64 MiB deflated behind a small image": (png(16, 16, zeros), "image/png"),
        "16 million pixels of four channels": (
            png(4096, 4096, zlib.compress(bytes(4096 * 16385)), colour=6),
            "image/png",
        ),
        "deflated text": (png(16, 16, zlib.compress(bytes(272)), *[chunk(b"zTXt", text)] * 20), "image/png"),
        "deflated international text": (
            png(16, 16, zlib.compress(bytes(272)), *[chunk(b"iTXt", b"key\x00\x01\x00\x00\x00" + zeros)] * 20),
            "image/png",
        ),
        "a colour profile deflated": (png(16, 16, zlib.compress(bytes(272)), chunk(b"iCCP", text)), "image/png"),
        "100,000 chunks": (png(16, 16, zlib.compress(bytes(272)), *[chunk(b"tEXt", b"k\x00v")] * 100_000), "image/png"),
        "tags of a TIFF that overlap": (tiff_of_tags(5000, 1_000_000), "image/tiff"),
        "tags of Exif that overlap": (
            png(16, 16, zlib.compress(bytes(272)), chunk(b"eXIf", tiff_of_tags(5000, 1_000_000))),
            "image/png",
        ),
        "a TIFF of a tag of 4 GiB": (directory({256: (4, 1, 9), 257: (4, 1, 9), 273: (4, 2**32 - 1, 8)}), "image/tiff"),
        "1,000 scans": (jpeg_of_scans(1000), "image/jpeg"),
        "1,000 frames": (gif_of(1000), "image/gif"),
        "a comment of 5 MiB": (gif_of(1, 20_000), "image/gif"),
        "2 million runs of a BMP": (bmp_of_runs(2_000_000), "image/bmp"),
        "4 million numbers as text": (b"P3 1155 1155 255 " + b"0 " * 4_002_075, "image/png"),
        "an AVIF that hides its size": (lying_avif(), "image/png"),
        "a TIFF of one huge tile": (tiff_of_a_tile(), "image/tiff"),
        "1e9 pixels as .npy": (as_npy(np.empty(0, np.uint8)).replace(b"(0,)", b"(1000000000, 48, 48, 1)"), NPY),
        "JSON 100,000 deep": (b"[" * 100_000 + b"]" * 100_000, JSON),
        "JSON of empty lists": (b'{"instances":[' + b"[]," * 1_350_000 + b"[]]}", JSON),
        "JSON of one long text and many short": (as_json({"instances": ["a" * 10**6, *[""] * 4000]}), JSON),
        "compressed Arrow": (arrow_bomb(), ARROW),
        "Arrow of 2,000 columns": (as_arrow(pa.table({f"c{n}": [1] for n in range(2000)})), ARROW),
        "Arrow of nulls": (as_arrow(pa.table({"image": pa.nulls(10**9)})), ARROW),
    }
