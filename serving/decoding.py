"""From a request's body to the model's input: every byte of it is taken for hostile, and nothing in it is run.

What is not the declared content, or is too much of it, is `Refused` with what was expected. Imports neither torch nor
(for images) pandas; pyarrow is imported with the first Arrow body.

Shape legend: N samples, H height, W width, C channels, T rows of a window, F features.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from labline.packaged_model import Kind, PackagedModel
from serving import image_bodies, series_bodies
from serving.limits import Limits, Refused

__all__ = ["Decoded", "Limits", "Refused", "decode_body", "prepare", "takes_long"]

RAW, NPY = "application/octet-stream", "application/x-npy"
ARROW, JSON = "application/vnd.apache.arrow.stream", "application/json"
ENCODED = ("image/png", "image/jpeg", "image/gif", "image/bmp", "image/tiff", "image/webp", "image/jp2")
SMALL = 16_384  # bytes, of what is read quickly

Facts = dict[str, float]
Reader = Callable[[bytes, PackagedModel, Limits], tuple[npt.NDArray[Any], bool, list[Facts]]]

READERS: dict[tuple[str, str], Reader] = {
    **{("image", media): image_bodies.encoded_image for media in ENCODED},
    ("image", RAW): image_bodies.raw_pixels,
    ("image", NPY): image_bodies.npy_pixels,
    ("image", ARROW): image_bodies.arrow_images,
    ("image", JSON): image_bodies.json_instances,
    ("series", NPY): series_bodies.npy_windows,
    ("series", ARROW): series_bodies.arrow_rows,
    ("series", JSON): series_bodies.json_rows,
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a body holds: the model's input, and what can be said of each sample without the model.

    `inputs`: uint8 N x H x W x C or float32 N x T x F, contiguous, N at least 1; it may be a read-only view of the
    body. `single`: one sample was sent as such, not as a batch of one. `facts`, one a sample: `mean` and `std` of the
    model's pixels (0 to 255), `width`, `height` (pixels) and `bytes` of a file that was sent; of a series the last
    value of each feature, by its expression.
    """

    inputs: npt.NDArray[Any]
    single: bool
    facts: list[Facts]


def decode_body(body: bytes, content_type: str, model: PackagedModel, limits: Limits) -> Decoded:
    """The model's input in a body of the given content type, whose parameters (";…") are ignored.

    Raises Refused, and nothing else, whatever the bytes: 415 where the content type is not one for this model, 413
    where there is more of it than `limits` allow, 422 where it is not what the type or the model calls for.
    """
    if len(body) > limits.max_body:
        raise Refused(413, f"the body has {len(body):,} bytes; at most {limits.max_body:,} are taken")
    media = content_type.partition(";")[0].strip().lower()
    reader = READERS.get((model.kind, media))
    if reader is None:
        known = ", ".join(media for kind, media in READERS if kind == model.kind)
        raise Refused(415, f"content type {media[:100]!r} is not taken; expected one of {known}")
    if media == JSON and len(body) > limits.max_json:
        compact = f"as JSON at most {limits.max_json:,} are taken: send {NPY}, which is smaller and faster"
        raise Refused(413, f"the body has {len(body):,} bytes; {compact}")
    return Decoded(*reader(body, model, limits))


def prepare(model: PackagedModel) -> None:
    """Read and import what the first body for this model would have to wait for; raises LablineError where it cannot.

    Of a series: its declaration, pandas, and the code that computes features.
    """
    if model.kind == "series":
        series_bodies.declaration_of(model.folder)
        importlib.import_module("labline.series.latest")


def takes_long(body: bytes, content_type: str, kind: Kind = "image") -> bool:
    """Whether decoding may take more than about a millisecond, so that it should not hold up an event loop.

    Raw pixels and .npy are views of the body. JSON is quick where it is short and holds no file. Files are not, for few
    bytes may become many pixels: but a PNG says how many in a fixed place (PNG specification, 11.2.2). Of a series,
    rows are cleaned with pandas where there is anything to clean.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media in (RAW, NPY):
        return len(body) > 2**20  # the statistics of so many pixels
    if kind == "series" or len(body) > SMALL:
        return True
    if media == JSON:
        return b"b64" in body or b"\\" in body  # by which "b64" may be written otherwise
    width, height = int.from_bytes(body[16:20]), int.from_bytes(body[20:24])
    return not (body.startswith(b"\x89PNG\r\n\x1a\n") and media != ARROW and width * height <= 128 * 128)
