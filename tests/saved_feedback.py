"""Small records of feedback, for tests."""

from __future__ import annotations

import math
import time
from typing import Any

from labline.feedback import Label, Prediction, new_id

KEY = b"the tests' own key of feedback i"


def prediction(usecase: str = "steel", **facts: Any) -> Prediction:
    """An answer of a classifier of three classes, now, with what is given instead."""
    defaults: dict[str, Any] = {
        "id": new_id(KEY),
        "version": "3",
        "role": "production",
        "at": time.time(),
        "answer": "scratches",
        "confidence": 0.75,
        "outputs": (0.75, 0.125, 0.125),
        "latency_ms": 1.5,
        "features": {"mean": 120.5, "std": 30.25},
    }
    return Prediction(usecase=usecase, **(defaults | facts))


def forecast(usecase: str = "volatility", **facts: Any) -> Prediction:
    """An answer of a forecaster."""
    defaults = {"answer": repr(0.0125), "confidence": math.nan, "outputs": (-4.5,), "features": {"close": 1480.25}}
    return prediction(usecase, **(defaults | facts))


def label(of: Prediction | str, said: str = "scratches", **facts: Any) -> Label:
    """A label of a prediction, now, with what is given instead."""
    now = time.time()
    defaults: dict[str, Any] = {"id": new_id(KEY), "source": "operator", "at": now, "received": now}
    return Label(prediction=of if isinstance(of, str) else of.id, label=said, **(defaults | facts))
