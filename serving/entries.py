"""How a record lies in the journal: a JSON head, then its bytes as they are. No pickle.

Encoding is on the way of every request, so the input is copied raw; the drainer makes the PNG of it.
"""

from __future__ import annotations

import io
import math
from itertools import pairwise
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from PIL import Image

from labline.feedback.records import Label, Prediction

HEAD_LENGTH = Struct("<I")
CHANNELS = (1, 3, 4)  # what a PNG can hold of 8 bits each: grey, colour, colour with transparency
# Sensor noise hardly compresses: of a 32 x 32 image's 3,072 bytes 2,800 remain at 1, and 2,795 at the usual 6.
PNG_EFFORT = 1

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
    """The record of a journal entry, its sample encoded as the store keeps it: PNG of images, npy of others."""
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
        input=kept if form is None else encode_sample(np.frombuffer(raw, form[0]).reshape(form[1])),
        embedding=embedding,
        shadow_of=shadow_of,
        source=source,
    )


def encode_sample(sample: Array) -> bytes:
    """One input of a model: H x W x C or H x W uint8 as PNG, any other array as npy."""
    file = io.BytesIO()
    image = sample[..., 0] if sample.ndim == 3 and sample.shape[2] == 1 else sample
    if sample.dtype == np.uint8 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in CHANNELS)):
        Image.fromarray(image).save(file, "PNG", compress_level=PNG_EFFORT)
    else:
        np.lib.format.write_array(file, sample, allow_pickle=False)
    return file.getvalue()


def _cut(blobs: bytes, lengths: list[int]) -> list[bytes]:
    ends = np.cumsum([0, *lengths]).tolist()
    return [blobs[start:end] for start, end in pairwise(ends)]


def _number(value: float | None) -> float:
    """JSON has neither NaN nor infinity: both were written as null."""
    return math.nan if value is None else value
