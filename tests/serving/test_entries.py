"""Records in the journal come out as they went in, their inputs as files that anybody can open."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from saved_feedback import forecast, label, prediction

from labline.feedback import Label, Prediction
from serving.entries import decode, encode_label, encode_prediction

finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
predictions = st.builds(
    Prediction,
    id=text,
    usecase=text,
    version=text,
    role=st.sampled_from(["production", "canary", "shadow"]),
    at=finite,
    answer=text,
    confidence=finite,
    outputs=st.lists(finite, max_size=5).map(tuple),
    latency_ms=finite,
    features=st.dictionaries(text, finite, max_size=3),
    input=st.binary(max_size=50),
    embedding=st.binary(max_size=50),
    shadow_of=text,
    source=text,
)
speakable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
labels = st.builds(Label, speakable, speakable, speakable, speakable, finite, finite)


@given(predictions)
def test_a_prediction_comes_out_as_it_went_in(given: Prediction) -> None:
    assert decode(encode_prediction(given, None)) == given


@given(labels)
def test_a_label_comes_out_as_it_went_in(given: Label) -> None:
    assert decode(encode_label(given)) == given


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]))))
def test_an_image_is_kept_as_png_to_the_last_bit(image: np.ndarray) -> None:
    kept = decode(encode_prediction(prediction(embedding=b"ab"), image))
    assert isinstance(kept, Prediction) and kept.embedding == b"ab"
    with Image.open(io.BytesIO(kept.input)) as opened:
        assert opened.format == "PNG"
        np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)


@pytest.mark.parametrize("shape", [(5, 2), (4, 4, 7)])
def test_other_arrays_are_kept_as_npy(shape: tuple[int, ...]) -> None:
    window = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kept = decode(encode_prediction(forecast(), window))
    assert isinstance(kept, Prediction)
    np.testing.assert_array_equal(np.load(io.BytesIO(kept.input), allow_pickle=False), window)


def test_what_json_has_no_word_for_becomes_nan() -> None:
    odd = prediction(confidence=math.nan, outputs=(math.inf, 1.0), features={"std": math.nan, "mean": np.float32(0.5)})
    kept = decode(encode_prediction(odd, None))
    assert isinstance(kept, Prediction)
    assert math.isnan(kept.confidence) and math.isnan(kept.outputs[0]) and math.isnan(kept.features["std"])
    assert kept.features["mean"] == 0.5


@pytest.mark.parametrize(
    "change", [{"label": "a\0b"}, {"source": "\ud800"}, {"at": math.nan}, {"received": math.inf}], ids=str
)
def test_a_label_that_no_database_would_take_cannot_be_made(change: dict[str, object]) -> None:
    """It would be acknowledged first and refused later."""
    with pytest.raises(ValueError):
        replace(label("id"), **change)
