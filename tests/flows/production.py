"""A version in Production and what production asked it: real answers of the released file, kept as the service does."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from small_runs import SMALL, invoke

from labline.data import surfaces
from labline.data.storing import pixel_statistics
from labline.feedback import FeedbackStore, Label, Prediction, new_id
from labline.packaged_model import EMBEDDING, PROBABILITIES, open_model
from tasks.registry import open_registry
from tasks.version import fetch_version

KEY = b"the tests' own key of feedback i"
HOUR = 3600.0
RULES = [
    "training.epochs=10",
    "compression.passes=[]",
    "retraining.epochs=25",
    "retraining.cooldown_hours=0",
    "retraining.fewest=50",
    "retraining.old_margin=0.1",
    "promotion.slice_margin=0.2",  # of some 40 samples, and training differs from processor to processor
    "monitoring.max_drop=0.05",
]


def in_production(name: str, *settings: str) -> None:
    """Train a small version of `surface` under another name and put it in Production."""
    from flows.training import training

    training("surface", assignments=[*SMALL, f"name={name}", *RULES, *settings])
    for _ in range(2):
        promoted = invoke("promote", name, "--json")
        assert promoted.code == 0, promoted.err


def strips(samples: int, seed: int, **conditions: float) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Strips that no training has seen, uint8 N x H x W x 1, and their classes."""
    made = surfaces.load({"samples": samples, **conditions}, 32, seed)
    return made.images.reshape(len(made.images), 32, 32, 1), list(made.labels)


def traffic(
    usecase: str,
    images: np.ndarray[Any, Any],
    truth: Sequence[str],
    hours_ago: float = 1.0,
    labelled: float = 1.0,
    source: str = "operator",
) -> list[str]:
    """Ask the version in Production, keep its answers, and label a share of them; returns the predictions' ids."""
    registry = open_registry(usecase)
    number = registry.standing().production
    assert number is not None
    model = open_model(fetch_version(registry, number).folder)
    probabilities_NK, embedding_ND = model.answer(images, (PROBABILITIES, EMBEDDING))
    means, stds = pixel_statistics(images)
    began = time.time() - hours_ago * HOUR
    predictions, labels = [], []
    for i in range(len(images)):
        prediction = Prediction(
            id=new_id(KEY),
            usecase=usecase,
            version=number,
            role="production",
            at=began + i * 0.1,
            answer=model.labels[int(probabilities_NK[i].argmax())],
            confidence=float(probabilities_NK[i].max()),
            outputs=tuple(map(float, probabilities_NK[i])),
            latency_ms=1.0,
            features={"mean": float(means[i]), "std": float(stds[i])},
            input=png(images[i]),
            embedding=embedding_ND[i].astype("<f2").tobytes(),
        )
        predictions.append(prediction)
        if i < labelled * len(images):
            labels.append(Label(new_id(KEY), prediction.id, truth[i], source, prediction.at, prediction.at))
    store = FeedbackStore(os.environ["LABLINE_FEEDBACK"])
    store.write([*predictions, *labels])
    store.close()
    return [prediction.id for prediction in predictions]


def png(image: np.ndarray[Any, Any]) -> bytes:
    """As the service keeps a model's input."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "PNG")
    return file.getvalue()
