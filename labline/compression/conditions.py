"""What all candidates of one compression search share: the data, the budget, the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labline.compression.candidates import ROUNDING, Judge, Quality, Tried, most_lost
from labline.models.classifier import ImageClassifier
from labline.usecase import Compression

# Trains a network that is nearly right for a short while; the name is the candidate's, for its checkpoint.
Finetune = Callable[[ImageClassifier, str], ImageClassifier]
# Trains a network of that share of the declared width from scratch.
Teach = Callable[[float, str], ImageClassifier]


@dataclass(frozen=True)
class Conditions:
    """The conditions of one search.

    `samples` are uint8 NHWC validation images that calibrate; `judged` gives the quality of a file on validation,
    `float32` that of the uncompressed one; `until` is the `time.monotonic` after which no training begins.
    """

    settings: Compression
    image_size: int
    channels: int
    samples: npt.NDArray[np.uint8]
    judged: Judge
    float32: Quality
    finetune: Finetune
    directory: Path
    until: float

    def fits(self, candidate: Tried) -> bool:
        """Whether there is such a candidate, and no metric of it loses more than declared."""
        return bool(candidate.quality.metrics) and (
            most_lost(self.float32, candidate.quality).most <= self.settings.max_metric_drop + ROUNDING
        )

    def in_time(self, name: str) -> Tried | None:
        """None while there is time to train; after that, what stands for the candidate in the table."""
        if time.monotonic() < self.until:
            return None
        return Tried(name, note=f"not tried: the {self.settings.minutes:g} minutes of compression.minutes are over")
