"""Records in the journal come out as they went in."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saved_feedback import label, prediction

from labline.feedback import Label, Prediction
from labline.feedback.inputs import decode_input
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


@pytest.mark.parametrize(("dtype", "shape"), [("u1", (9, 7, 3)), ("f4", (5, 2))])
def test_the_input_comes_out_as_the_store_keeps_it(dtype: str, shape: tuple[int, ...]) -> None:
    sample = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    kept = decode(encode_prediction(prediction(embedding=b"ab"), sample))
    assert isinstance(kept, Prediction) and kept.embedding == b"ab"
    np.testing.assert_array_equal(decode_input(kept.input), sample)


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
