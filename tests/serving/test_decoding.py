"""From a body to the model's input: what each content type gives, and that hostile bodies are refused, cheaply."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import ARROW, FORMATS, JSON, NPY, PIXELS, RAW, as_arrow, as_json, as_npy, encode, malformed, valid
from small_models import image_model

from labline.data.decoding import Decoded as DecodedFile
from labline.data.decoding import decode
from labline.data.storing import pixel_statistics
from labline.packaged_model import PackagedModel
from serving.decoding import READERS, Decoded, Limits, Refused, decode_body, takes_long

LIMITS = Limits()
pytestmark = pytest.mark.filterwarnings("ignore:::PIL.TiffImagePlugin")  # pytest sets its own filters
PHOTO = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> PackagedModel:
    return image_model(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> PackagedModel:
    return image_model(tmp_path_factory.mktemp("colour"), size=8, channels=3)


def refusal(body: bytes, content_type: str, model: PackagedModel, limits: Limits = LIMITS) -> Refused:
    with pytest.raises(Refused) as caught:
        decode_body(body, content_type, model, limits)
    return caught.value


def outcome(body: bytes, content_type: str, model: PackagedModel) -> Decoded | Refused:
    try:
        return decode_body(body, content_type, model, LIMITS)
    except Refused as refused:
        return refused


def check_invariants(decoded: Decoded, model: PackagedModel) -> None:
    """What the rest of the service builds upon."""
    assert model.input.mismatch(decoded.inputs) is None
    assert decoded.inputs.flags.c_contiguous
    assert len(decoded.inputs) == len(decoded.facts) >= 1
    assert not decoded.single or len(decoded.inputs) == 1


# --- what is taken -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image_format", "content_type"), FORMATS.items())
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_is_decoded_as_ingest_decodes_it(
    image_format: str, content_type: str, channels: int, model: PackagedModel, colour_model: PackagedModel
) -> None:
    served = model if channels == 1 else colour_model
    encoded = encode(PHOTO, image_format)
    ingested = decode(encoded, served.input.shape[1] or 0, channels, 10**6)
    assert isinstance(ingested, DecodedFile)

    decoded = decode_body(encoded, content_type, served, LIMITS)

    assert decoded.single
    np.testing.assert_array_equal(decoded.inputs[0], ingested.pixels)
    (facts,) = decoded.facts
    assert (facts["width"], facts["height"], facts["bytes"]) == (90, 60, len(encoded))
    check_invariants(decoded, served)


def test_raw_pixels_and_npy_are_views_of_the_body(model: PackagedModel) -> None:
    for body, content_type, single in [
        (PIXELS.tobytes(), RAW, True),
        (as_npy(PIXELS), NPY, True),
        (as_npy(PIXELS[None]), NPY, False),
        (as_npy(np.stack([PIXELS] * 3)), NPY, False),
    ]:
        decoded = decode_body(body, content_type, model, LIMITS)
        np.testing.assert_array_equal(decoded.inputs[0], PIXELS)
        assert np.shares_memory(decoded.inputs, np.frombuffer(body, np.uint8))
        assert decoded.single is single
        assert model.predict(decoded.inputs).shape == (len(decoded.inputs), 2)


def test_npy_in_fortran_order_and_of_format_2_means_the_same(model: PackagedModel) -> None:
    batch = np.random.default_rng(2).integers(0, 256, (5, 48, 48, 1), dtype=np.uint8)
    newer = as_npy(batch)
    length = int.from_bytes(newer[8:10], "little")
    newer = newer[:6] + b"\x02\x00" + length.to_bytes(4, "little") + newer[10:]
    for body in (as_npy(np.asfortranarray(batch)), newer):
        decoded = decode_body(body, NPY, model, LIMITS)
        np.testing.assert_array_equal(decoded.inputs, batch)
        check_invariants(decoded, model)


@pytest.mark.parametrize("rows", [1, 3])
def test_arrow_of_files_or_pixels(rows: int, model: PackagedModel) -> None:
    batch = np.random.default_rng(3).integers(0, 256, (rows, 48, 48, 1), dtype=np.uint8)
    size = PIXELS.size
    columns = [
        pa.array([encode(pixels, "PNG") for pixels in batch]),
        pa.array([encode(pixels, "PNG") for pixels in batch], pa.large_binary()),
        pa.array([pixels.tobytes() for pixels in batch], pa.binary(size)),
        pa.FixedSizeListArray.from_arrays(pa.array(batch.ravel()), size),
    ]
    for column in columns:
        body = as_arrow(pa.table({"other": list(range(rows)), "image": column}))
        decoded = decode_body(body, ARROW, model, LIMITS)
        np.testing.assert_array_equal(decoded.inputs, batch)
        assert not decoded.single
        check_invariants(decoded, model)


def test_arrow_of_several_batches_and_of_a_slice(model: PackagedModel) -> None:
    batch = np.random.default_rng(4).integers(0, 256, (7, 48, 48, 1), dtype=np.uint8)
    table = pa.table({"image": pa.array([pixels.tobytes() for pixels in batch], pa.binary(PIXELS.size))})
    pieces = pa.concat_tables([table.slice(2, 2), table.slice(4, 3)])
    np.testing.assert_array_equal(decode_body(as_arrow(pieces), ARROW, model, LIMITS).inputs, batch[2:])


def test_json_of_numbers_or_files(model: PackagedModel, colour_model: PackagedModel) -> None:
    coded = base64.b64encode(encode(PIXELS, "PNG")).decode()
    for instances in ([PIXELS.tolist()], [PIXELS.astype(float).tolist()], [{"b64": coded}]):
        decoded = decode_body(as_json({"instances": instances}), "application/json; charset=utf-8", model, LIMITS)
        np.testing.assert_array_equal(decoded.inputs[0], PIXELS)
        assert not decoded.single
    small = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    decoded = decode_body(as_json({"instances": small.tolist()}), JSON, colour_model, LIMITS)
    np.testing.assert_array_equal(decoded.inputs, small)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_facts_are_those_of_the_manifest(count: int, model: PackagedModel) -> None:
    images = np.random.default_rng(5).integers(100, 140, (count, 48, 48, 1), dtype=np.uint8)
    images[0] = 255
    means, stds = pixel_statistics(images)

    facts = decode_body(images.tobytes(), RAW, model, LIMITS).facts

    np.testing.assert_allclose([known["mean"] for known in facts], means, rtol=1e-6)
    np.testing.assert_allclose([known["std"] for known in facts], stds, rtol=1e-5, atol=1e-5)


# --- what is refused ---------------------------------------------------------------------------------------------

PNG = encode(PIXELS, "PNG")
REFUSED = [
    (PNG, "text/plain", 415, "expected one of image/png"),
    (PNG, "", 415, "expected one of"),
    (PNG, "image/svg+xml", 415, "'image/svg.xml' is not taken"),
    (b"", "image/png", 422, "it is empty"),
    (b"%!PS-Adobe-3.0 EPSF-3.0", "image/png", 422, "of no format that is taken"),
    (PNG[:300], "image/png", 422, "could not be decoded|ends before"),
    (encode(PIXELS, "AVIF"), "image/png", 422, "of no format that is taken"),
    (b"", RAW, 422, "expected 2,304 bytes for each"),
    (bytes(2305), RAW, 422, "2,305 bytes are no whole number of images"),
    (as_npy(PIXELS)[:-1], NPY, 422, "2,303 bytes follow it"),
    (as_npy(PIXELS) + b"0", NPY, 422, "2,305 bytes follow it"),
    (as_npy(PIXELS.astype(np.float32)), NPY, 422, "dtype 'float32'; expected uint8 pixels, N x 48 x 48 x 1"),
    (as_npy(np.array([None])), NPY, 422, "dtype 'object'"),
    (as_npy(PIXELS[:, :, 0]), NPY, 422, "the shape is 48 x 48; expected"),
    (as_npy(np.zeros((2, 24, 48, 2), np.uint8)), NPY, 422, "the shape is 2 x 24 x 48 x 2"),
    (as_npy(np.zeros((0, 48, 48, 1), np.uint8)), NPY, 422, "no image was sent"),
    (as_npy(PIXELS).replace(b"(48,", b"(-48,"), NPY, 422, "the header promises|no .npy"),
    (as_npy(np.empty(0, np.uint8)).replace(b"(0,)", b"(0, " + b"1," * 50 + b")"), NPY, 422, "promises|no .npy"),
    (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, NPY, 422, "no .npy of format"),
    (b"\x93NUMPY\x01\x00\x84\x03" + b"(" * 900, NPY, 422, "no .npy of format"),
    (b"\x93NUMPY\x03\x00", NPY, 422, "no .npy of format"),
    (b"PK\x03\x04", NPY, 422, "no .npy of format"),
    (b"ARROW1", ARROW, 422, "no Arrow stream"),
    (as_arrow(pa.table({"picture": [b"x"]})), ARROW, 422, "no column 'image'"),
    (as_arrow(pa.table({"image": ["text"]})), ARROW, 422, "has type string; expected binary"),
    (as_arrow(pa.table({"image": [b"x", None]})), ARROW, 422, "1 values are missing"),
    (as_arrow(pa.table({"image": pa.array([b"x"]).dictionary_encode()})), ARROW, 422, "without dictionaries"),
    (as_arrow(pa.table({"image": [bytes(2304)] * 9}), "lz4"), ARROW, 422, "without compression"),
    (as_arrow(pa.table({"image": pa.array([], pa.binary())})), ARROW, 422, "no image was sent"),
    (b"{", JSON, 422, "the body is no JSON"),
    (b'{"instances": [NaN]}', JSON, 422, "the body is no JSON"),
    (b'{"instances": [1e400]}', JSON, 422, "the body is no JSON"),
    (b"[" * 5000, JSON, 422, "the body is no JSON"),
    (b"[]", JSON, 422, 'the one key "instances"'),
    (b'{"instances": [], "more": 1}', JSON, 422, 'the one key "instances"'),
    (b'{"instances": 1}', JSON, 422, "must be a list"),
    (b'{"instances": []}', JSON, 422, "no image was sent"),
    (as_json({"instances": [PIXELS[:, :-1].tolist()]}), JSON, 422, "lists of other lengths"),
    (as_json({"instances": PIXELS.tolist()}), JSON, 422, "lists of other lengths"),
    (as_json({"instances": [PIXELS.tolist(), 3]}), JSON, 422, "lists of other lengths"),
    (as_json({"instances": [(PIXELS / 255).tolist()]}), JSON, 422, "a whole number from 0 to 255"),
    (as_json({"instances": [(PIXELS.astype(int) - 1000).tolist()]}), JSON, 422, "a whole number from 0 to 255"),
    (as_json({"instances": [(PIXELS.astype(float) * 1e300).tolist()]}), JSON, 422, "a whole number from 0 to 255"),
    (as_json({"instances": [PIXELS.astype(str).tolist()]}), JSON, 422, "a whole number from 0 to 255"),
    (as_json({"instances": [(PIXELS > 9).tolist()]}), JSON, 422, "a whole number from 0 to 255"),
    (as_json({"instances": [{"b64": "a?"}]}), JSON, 422, "b64 is not base64"),
    (as_json({"instances": [{"b64": 7}]}), JSON, 422, "an object"),
    (as_json({"instances": [{"b64": base64.b64encode(PNG).decode()}, 7]}), JSON, 422, "instances[[]1]: an object"),
]


@pytest.mark.parametrize(("body", "content_type", "status", "words"), REFUSED)
def test_a_wrong_body_is_refused_and_told_what_was_expected(
    body: bytes, content_type: str, status: int, words: str, model: PackagedModel
) -> None:
    refused = refusal(body, content_type, model)
    assert refused.status == status
    assert re.search(words, refused.message)


def test_more_than_the_limits_is_refused_with_the_limit(model: PackagedModel) -> None:
    few = Limits(max_body=100_000, max_json=10_000, max_samples=4, max_pixels=5_000, max_decoded=3 * PIXELS.size)
    json_image = as_json({"instances": [PIXELS.tolist()]})
    for body, content_type, words in [
        (bytes(100_001), RAW, "100,001 bytes; at most 100,000"),
        (PIXELS.tobytes() * 5, RAW, "5 images were sent; at most 4"),
        (as_npy(np.stack([PIXELS] * 5)), NPY, "5 images were sent; at most 4"),
        (as_arrow(pa.table({"image": [PNG] * 5})), ARROW, "5 rows were sent; at most 4"),
        (as_arrow(pa.table({"image": [PNG] * 4})), ARROW, "4 images were sent; at most 3 of this size"),
        (as_arrow(pa.table({"image": [PNG] * 3})), ARROW, "image 2: its header promises 2,304 pixels"),
        (encode(PHOTO, "PNG"), "image/png", "its header promises 5,400 pixels; at most 5,000"),
        (json_image, JSON, "send application/x-npy"),
    ]:
        refused = refusal(body, content_type, model, few)
        assert refused.status == 413
        assert words in refused.message


def test_no_refusal_tells_of_the_machine(model: PackagedModel) -> None:
    outcomes = [outcome(body, content_type, model) for body, content_type in malformed(1_000, seed=1)]
    refusals = [found for found in outcomes if isinstance(found, Refused)]
    assert len(refusals) > 500
    for refused in refusals:
        assert refused.status in (413, 415, 422)
        assert len(refused.message) < 600
        assert not re.search("site-packages| object at |Traceback|/work|/home|/tmp", refused.message)


@settings(max_examples=300, deadline=None)
@given(
    body=st.binary(max_size=400) | st.sampled_from([body for body, _ in valid()]),
    start=st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"GIF89a", b"\x93NUMPY\x01\x00", b"BM", b"{"]
    ),
    content_type=st.sampled_from([media for kind, media in READERS if kind == "image"]) | st.text(max_size=20),
)
def test_any_bytes_give_the_models_input_or_a_refusal(
    body: bytes, start: bytes, content_type: str, model: PackagedModel
) -> None:
    found = outcome(start + body, content_type, model)
    if isinstance(found, Refused):
        assert found.status in (413, 415, 422)
    else:
        check_invariants(found, model)


BOMBED = """
import resource, sys
from pathlib import Path
from malformed import bombs, valid
from small_models import image_model
from serving.decoding import Limits, Refused, decode_body

model, limits, bodies = image_model(Path(sys.argv[1])), Limits(), bombs()
for body, content_type in valid():
    decode_body(body, content_type, model, limits)
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for name, (body, content_type) in bodies.items():
    try:
        said = f"decoded {decode_body(body, content_type, model, limits).inputs.shape}"
    except Refused as refused:
        said = f"{refused.status} {refused.message}"
    print(name, "|", said)
print("alive", decode_body(bytes(48 * 48), "application/octet-stream", model, limits).inputs.shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are told by /proc")
def test_bombs_take_little_memory_and_leave_the_process_alive(tmp_path: Path) -> None:
    places = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {places!r}\n{BOMBED}", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    *said, alive = ran.stdout.splitlines()
    assert alive == "alive (1, 48, 48, 1)"
    answers = dict(line.split(" | ") for line in said)
    for name in ("1e9 pixels in the header", "4e18 pixels in the header", "a TIFF of one huge tile"):
        assert answers[name].startswith("413")
    for name in (
        "deflated text",
        "1,000 scans",
        "2 million runs of a BMP",
        "an AVIF that hides its size",
        "compressed Arrow",
        "JSON 100,000 deep",
    ):
        assert answers[name].startswith("422")
    assert answers["64 MiB deflated behind a small image"].startswith("decoded")
    # Within the limits, and so decoded in the memory that they allow: no MemoryError made it "could not be decoded".
    assert answers["16 million pixels of four channels"].startswith("decoded")


def test_decoding_images_needs_neither_torch_nor_pandas() -> None:
    code = "import sys, serving.decoding; print({'torch', 'pandas', 'mlflow', 'pyarrow'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_what_takes_long_is_known_before_decoding() -> None:
    assert not takes_long(PIXELS.tobytes(), RAW)
    assert not takes_long(PNG, "image/png")
    assert takes_long(encode(np.zeros((2000, 2000), np.uint8), "PNG"), "image/png")
    assert takes_long(encode(PIXELS, "JPEG"), "image/jpeg")
    assert takes_long(bytes(20_000), JSON)
    assert not takes_long(as_json({"instances": [PIXELS[:8].tolist()]}), JSON)
    assert takes_long(as_json({"instances": [{"b64": "abc"}]}), JSON)
    assert takes_long(rb'{"instances": [{"\u0062\u0036\u0034": "abc"}]}', JSON)
    assert takes_long(as_arrow(pa.table({"image": [PNG]})), ARROW)
    assert takes_long(b"{}", JSON, "series")
