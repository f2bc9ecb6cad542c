"""The two records of feedback: a prediction that was answered, and a label that came back for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["production", "canary", "shadow"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer of a version, as it was given; moments are in seconds since 1970, UTC.

    `answer` is the predicted class, or the forecast's mean as `repr(float)`; `confidence` the largest probability,
    NaN for a forecast; `outputs` the probabilities of all classes, or the forecast, kept as float32.
    `features` say what the input was like: of an image `mean` and `std` (0 to 255) and, where a file was sent,
    `width`, `height` and `bytes`; of a series the last value of each feature.
    `input` is what the declaration lets be kept, empty where nothing is: the model's input as npy or PNG,
    see `labline.feedback.inputs`. `embedding` is float16, little endian, D values; empty where the version has none.
    `shadow_of` is the id of the answered prediction that a `shadow` accompanies, `source` the client's own reference.
    """

    id: str
    usecase: str
    version: str
    role: Role
    at: float
    answer: str
    confidence: float
    outputs: tuple[float, ...]
    latency_ms: float
    features: dict[str, float] = field(default_factory=dict)
    input: bytes = b""
    embedding: bytes = b""
    shadow_of: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """What turned out to be true of a prediction; of several labels the latest by (`at`, `received`) counts.

    `id` is of this record: the same id is stored once for a prediction, so that a client may send again. `label` is the
    class, or `repr(float)`; `source` who says so (`operator`, `review`, `replay`); `at` when it became true, as the
    client says, `received` when it came here, in seconds since 1970, UTC. Raises ValueError for what no database would
    take: text with a NUL or a lone surrogate, a moment that is not finite; it must not be acknowledged and then be
    refused.
    """

    id: str
    prediction: str
    label: str
    source: str
    at: float
    received: float

    def __post_init__(self) -> None:
        text = "".join((self.id, self.prediction, self.label, self.source))
        if "\0" in text or not (math.isfinite(self.at) and math.isfinite(self.received)):
            raise ValueError("a label's texts may hold no NUL, and its moments must be finite")
        text.encode()  # UnicodeEncodeError is a ValueError
