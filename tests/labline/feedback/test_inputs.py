"""What the store keeps of an input can be opened by anybody, and is the input to the last bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from labline.feedback.inputs import as_png, decode_input, encode_input, is_picture


def kept(sample: np.ndarray) -> bytes:
    return encode_input(sample.tobytes(), sample.dtype.str, sample.shape)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]))))
def test_a_small_image_is_kept_as_it_is_and_shown_as_png(image: np.ndarray) -> None:
    content = kept(image)
    np.testing.assert_array_equal(np.load(io.BytesIO(content), allow_pickle=False), image)
    np.testing.assert_array_equal(decode_input(content), image)
    assert is_picture(content)
    with Image.open(io.BytesIO(as_png(content))) as opened:
        assert opened.format == "PNG"
        np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_image_is_kept_as_png(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (200, 150, channels)).astype(np.uint8)
    content = kept(image)
    assert content.startswith(b"\x89PNG") and is_picture(content) and as_png(content) == content
    np.testing.assert_array_equal(decode_input(content), image)


@pytest.mark.parametrize(("dtype", "shape"), [("f4", (5, 2)), ("f4", (4, 4, 3)), ("u1", (4, 4, 7)), ("f8", (99, 99))])
def test_other_arrays_are_windows(dtype: str, shape: tuple[int, ...]) -> None:
    window = np.random.default_rng(0).normal(size=shape).astype(dtype)
    content = kept(window)
    np.testing.assert_array_equal(np.load(io.BytesIO(content), allow_pickle=False), window)
    np.testing.assert_array_equal(decode_input(content), window)
    assert not is_picture(content)


def test_what_is_no_file_of_these_is_refused() -> None:
    with pytest.raises(ValueError):
        decode_input(b"cats")
