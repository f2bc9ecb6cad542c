"""Bodies that hold images: encoded files, raw pixels, .npy, Arrow, JSON.

Shape legend: N images, H height, W width, C channels.
"""

from __future__ import annotations

import base64
import binascii
import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from labline.data.decoding import FORMATS, Refusal, RefusalKind, decode
from labline.data.storing import pixel_statistics
from labline.packaged_model import PackagedModel
from serving.json_bodies import read_json
from serving.limits import Limits, Refused
from serving.npy import read_npy

Images = npt.NDArray[np.uint8]
Facts = dict[str, float]

# Of those that ingest reads. Left out are AVIF, whose header may promise fewer pixels than are then decoded, and PPM,
# which of more than 8 bits is decoded number by number, in Python.
SERVED_FORMATS = tuple(name for name in FORMATS if name not in ("AVIF", "PPM"))
FEW = 8  # images up to which a loop is faster than one pass over all
MOST_SCANS = 100  # of a JPEG; usual are about 10. Each takes as long as a whole picture, and may be of a few bytes
START_OF_SCAN = b"\xff\xda"  # within compressed pixels 0xff is always followed by 0 (ITU-T T.81, B.1.1.2)
RUN_LENGTHS = (1, 2)  # biCompression of a BMP's header: decoded run by run, in Python
REASONS: dict[RefusalKind, str] = {
    "empty": "it is empty",
    "not-an-image": "it is of no format that is taken: JPEG, PNG, GIF, BMP, TIFF, WebP or JPEG 2000",
    "corrupt": "its pixels could not be decoded",
    "truncated": "it ends before its pixels do",
    "unsupported-pixels": "its pixels have no agreed range: convert it to 8 or 16 bits",
}  # in words of our own: those of a decoder may tell of the machine

# Pillow warns of each odd tag of a file, of which a hostile one has thousands: they would fill the log.
warnings.filterwarnings("ignore", module=r"PIL\.")


def encoded_image(body: bytes, model: PackagedModel, limits: Limits) -> tuple[Images, bool, list[Facts]]:
    """One encoded file, whatever its content type calls it: its own first bytes tell its format."""
    inputs, facts = _decoded([body], model, limits)
    return inputs, True, facts


def raw_pixels(body: bytes, model: PackagedModel, limits: Limits) -> tuple[Images, bool, list[Facts]]:
    """uint8 pixels of one or more images, row by row, channels last: a view of the body."""
    height, width, channels = _size(model)
    count, rest = divmod(len(body), height * width * channels)
    if rest or not count:
        raise Refused(
            422,
            f"{len(body):,} bytes are no whole number of images; expected {height * width * channels:,} bytes for "
            f"each, uint8 {height} x {width} x {channels} row by row, channels last",
        )
    _check_count(count, limits)
    images_NHWC = np.frombuffer(body, np.uint8).reshape(count, height, width, channels)
    return images_NHWC, count == 1, pixel_facts(images_NHWC)


def npy_pixels(body: bytes, model: PackagedModel, limits: Limits) -> tuple[Images, bool, list[Facts]]:
    """A .npy of uint8 H x W x C, one image, or N x H x W x C."""
    expected = _expected(model)
    pixels = read_npy(body, "uint8", expected)
    single = pixels.ndim == 3
    images_NHWC: Images = pixels[None] if single else pixels
    _check_shape(images_NHWC, model, limits)
    return images_NHWC, single, pixel_facts(images_NHWC)


def arrow_images(body: bytes, model: PackagedModel, limits: Limits) -> tuple[Images, bool, list[Facts]]:
    """An Arrow stream with a column `image`: encoded files (binary), or raw pixels (fixed size, uint8 or binary)."""
    from serving.arrow import read_column

    height, width, channels = _size(model)
    found = read_column(body, "image", height * width * channels, limits.max_samples)
    if isinstance(found, list):
        inputs, facts = _decoded(found, model, limits)
        return inputs, False, facts
    images_NHWC = found.reshape(-1, height, width, channels)
    _check_count(len(images_NHWC), limits)
    return images_NHWC, False, pixel_facts(images_NHWC)


def json_instances(body: bytes, model: PackagedModel, limits: Limits) -> tuple[Images, bool, list[Facts]]:
    """`{"instances": […]}`: images as nested lists of whole numbers 0 to 255, or as `{"b64": "…"}`, encoded files."""
    document = read_json(body)
    if not isinstance(document, dict) or set(document) != {"instances"}:
        raise Refused(422, f'an object with the one key "instances" was expected: {_expected(model)}')
    instances = document["instances"]
    if not isinstance(instances, list):
        raise Refused(422, f'"instances" must be a list: {_expected(model)}')
    _check_count(len(instances), limits)
    if isinstance(instances[0], dict):
        files = [_file(number, instance) for number, instance in enumerate(instances)]
        inputs, facts = _decoded(files, model, limits)
        return inputs, False, facts
    images_NHWC = _nested_pixels(instances, model)
    return images_NHWC, False, pixel_facts(images_NHWC)


# --- files -------------------------------------------------------------------------------------------------------


def _decoded(files: Sequence[bytes], model: PackagedModel, limits: Limits) -> tuple[Images, list[Facts]]:
    """Files decoded as ingest decoded those that the model learned from."""
    height, _, channels = _size(model)
    _check_count(len(files), limits)
    if len(files) * height * height * channels > limits.max_decoded:
        most = limits.max_decoded // (height * height * channels)
        raise Refused(413, f"{len(files):,} images were sent; at most {most:,} of this size are taken at once")
    images_NHWC = np.empty((len(files), height, height, channels), np.uint8)
    sizes: list[tuple[int, int, int]] = []
    pixels_left = limits.max_pixels
    for number, encoded in enumerate(files):
        where = f"image {number}: " if len(files) > 1 else "the image: "
        if problem := _slow_to_decode(encoded):
            raise Refused(422, where + problem)
        decoded = decode(encoded, height, channels, pixels_left, SERVED_FORMATS)
        if isinstance(decoded, Refusal):
            raise _refused(where, decoded, limits)
        images_NHWC[number] = decoded.pixels
        sizes.append((decoded.width, decoded.height, len(encoded)))
        pixels_left -= decoded.width * decoded.height
    facts = pixel_facts(images_NHWC)
    for known, (width, height, size) in zip(facts, sizes, strict=True):
        known |= {"width": float(width), "height": float(height), "bytes": float(size)}
    return images_NHWC, facts


def _slow_to_decode(encoded: bytes) -> str | None:
    """What would take seconds of a file that is small and of few pixels, in words; None where nothing would."""
    if encoded.startswith(b"\xff\xd8") and encoded.count(START_OF_SCAN) > MOST_SCANS:
        return f"it has more than {MOST_SCANS} scans; save it anew as baseline JPEG"
    if encoded.startswith(b"BM") and int.from_bytes(encoded[30:34], "little") in RUN_LENGTHS:
        return "it is a BMP of run lengths; save it anew as PNG"
    return None


def _refused(where: str, refusal: Refusal, limits: Limits) -> Refused:
    if refusal.kind == "too-large":
        most = f"at most {limits.max_pixels:,} are taken in one request: scale it down"
        return Refused(413, f"{where}its header promises {int(refusal.value):,} pixels; {most}")
    return Refused(422, where + REASONS.get(refusal.kind, REASONS["corrupt"]))


def _file(number: int, instance: object) -> bytes:
    if not isinstance(instance, dict) or set(instance) != {"b64"} or not isinstance(instance["b64"], str):
        raise Refused(422, f'instances[{number}]: an object {{"b64": "…"}} was expected, as the first one is')
    try:
        return base64.b64decode(instance["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, f"instances[{number}].b64 is not base64 (RFC 4648, section 4)") from None


# --- pixels ------------------------------------------------------------------------------------------------------


def _nested_pixels(instances: list[Any], model: PackagedModel) -> Images:
    """Nested lists, every length and every number of which is looked at."""
    numbers = instances
    size = _size(model)
    for length in size:
        if set(map(type, numbers)) != {list} or set(map(len, numbers)) != {length}:
            raise Refused(422, f"instances: lists of other lengths or another depth; expected {_expected(model)}")
        numbers = list(chain.from_iterable(numbers))
    kinds = set(map(type, numbers))
    try:
        if kinds == {int}:
            return np.frombuffer(bytes(numbers), np.uint8).reshape(-1, *size)
        if kinds <= {int, float} and all(number == int(number) for number in numbers):
            return np.frombuffer(bytes(map(int, numbers)), np.uint8).reshape(-1, *size)
    except ValueError:  # a number below 0 or above 255
        pass
    raise Refused(422, f"instances: every pixel must be a whole number from 0 to 255; expected {_expected(model)}")


def pixel_facts(images_NHWC: Images) -> list[Facts]:
    """`labline.data.storing.pixel_statistics` of each image; one by one where they are few, which is then faster."""
    if len(images_NHWC) > FEW:
        means_N, stds_N = pixel_statistics(images_NHWC)
        return [{"mean": mean, "std": std} for mean, std in zip(means_N.tolist(), stds_N.tolist(), strict=True)]
    size = images_NHWC[0].size
    ones = _ones(size)
    facts = []
    for image in images_NHWC:
        pixels = image.reshape(-1).astype(np.float32)
        mean = float(pixels.dot(ones)) / size  # a sum, in half the time of one
        pixels -= mean
        facts.append({"mean": mean, "std": sqrt(float(pixels.dot(pixels)) / size)})
    return facts


@lru_cache(maxsize=8)
def _ones(size: int) -> npt.NDArray[np.float32]:
    return np.ones(size, np.float32)


def _check_shape(images_NHWC: Images, model: PackagedModel, limits: Limits) -> None:
    if images_NHWC.shape[1:] != model.input.shape[1:]:
        raise Refused(422, f"the shape is {' x '.join(map(str, images_NHWC.shape))}; expected {_expected(model)}")
    _check_count(len(images_NHWC), limits)


def _check_count(count: int, limits: Limits) -> None:
    if not count:
        raise Refused(422, "no image was sent; expected at least one")
    if count > limits.max_samples:
        raise Refused(413, f"{count:,} images were sent; at most {limits.max_samples:,} are taken at once")


def _size(model: PackagedModel) -> tuple[int, int, int]:
    _, height, width, channels = model.input.shape
    return height, width, channels  # type: ignore[return-value]  # an image model's signature leaves N open alone


def _expected(model: PackagedModel) -> str:
    return "uint8 pixels, N x {} x {} x {} (images, height, width, channels)".format(*_size(model))
