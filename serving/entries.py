"""How a record lies in the journal: a JSON head, then its bytes as they are. No pickle.

Encoding is on the way of every request, so the input is copied raw; the drainer makes a file of it.
"""

from __future__ import annotations

import math
from itertools import pairwise
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from labline.feedback.inputs import encode_input
from labline.feedback.records import Label, Prediction

HEAD_LENGTH = Struct("<I")

Array = npt.NDArray[Any]


def encode_prediction(prediction: Prediction, sample: Array | None) -> bytes:
    """A prediction as a journal entry; `sample` is the model's input, one, without the batch axis, where it is kept.

    Raises TypeError (of orjson) for text that is no UTF-8.
    """
    p = prediction
    blobs = [p.input, p.embedding, b"" if sample is None else sample.tobytes()]
    head = (
        *("prediction", [p.id, p.usecase, p.version, p.role, p.at, p.answer, p.confidence, p.outputs, p.latency_ms]),
        *(p.features, p.shadow_of, p.source, [len(blob) for blob in blobs]),
        None if sample is None else (sample.dtype.str, sample.shape),
    )
    encoded = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((HEAD_LENGTH.pack(len(encoded)), encoded, *blobs))


def encode_label(label: Label) -> bytes:
    """A label as a journal entry; raises TypeError (of orjson) for text that is no UTF-8."""
    encoded = orjson.dumps(("label", [getattr(label, name) for name in Label.__slots__]))
    return HEAD_LENGTH.pack(len(encoded)) + encoded


def decode(payload: bytes) -> Prediction | Label:
    """The record of a journal entry, its sample as the store keeps it."""
    start = HEAD_LENGTH.size
    (length,) = HEAD_LENGTH.unpack_from(payload)
    kind, facts, *rest = orjson.loads(payload[start : start + length])
    if kind == "label":
        return Label(*facts)
    features, shadow_of, source, lengths, form = rest
    id, usecase, version, role, at, answer, confidence, outputs, latency_ms = facts
    kept, embedding, raw = _cut(payload[start + length :], lengths)
    return Prediction(
        id=id,
        usecase=usecase,
        version=version,
        role=role,
        at=at,
        answer=answer,
        confidence=_number(confidence),
        outputs=tuple(map(_number, outputs)),
        latency_ms=latency_ms,
        features={name: _number(value) for name, value in features.items()},
        input=kept if form is None else encode_input(raw, form[0], tuple(form[1])),
        embedding=embedding,
        shadow_of=shadow_of,
        source=source,
    )


def _cut(blobs: bytes, lengths: list[int]) -> list[bytes]:
    ends = np.cumsum([0, *lengths]).tolist()
    return [blobs[start:end] for start, end in pairwise(ends)]


def _number(value: float | None) -> float:
    """JSON has neither NaN nor infinity: both were written as null."""
    return math.nan if value is None else value
