"""A small classifier's reference, windows of it and drifted ones, drawn: for monitoring, which reads answers alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from labline.reference import Reference

SEVERITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
LABELS = np.array(["crack", "dent", "good"], dtype=object)


def answers(count: int, seed: int, noise: float = 0.0, light: float = 0.0) -> Reference:
    """A model that errs the more often the noisier the picture, and hardly knows it; its embedding shows the noise."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(3, size=count)
    difficulty = generator.uniform(0, 1, count)
    right = generator.random(count) > 0.15 * difficulty + noise
    answered = np.where(right, truth, (truth + 1) % 3)
    confidence = np.clip(1 - 0.25 * difficulty - 0.2 * noise + generator.normal(0, 0.03, count), 0.4, 0.999)
    outputs = np.tile(((1 - confidence) / 2)[:, None], (1, 3))
    outputs[np.arange(count), answered] = confidence
    embedding = np.eye(3)[answered] @ (3 * np.eye(3, 8)) + generator.normal(0, 1 + 4 * noise, (count, 8))
    rows = pd.DataFrame(
        {
            "sample_id": np.arange(count),
            "label": LABELS[truth],
            "answer": LABELS[answered],
            "confidence": confidence,
            "mean": generator.normal(120 + 80 * light, 20, count),
            "std": generator.normal(30 + 40 * noise, 4, count),
        }
    )
    return Reference(rows, outputs.astype(np.float32), embedding.astype(np.float32), ("mean", "std"))


def shifted_answers(count: int = 300) -> Reference:
    """The same samples under noise, which costs accuracy, and brightness, which does not, each of several strengths.

    As `labline.monitoring.shifts` makes them of images.
    """
    noisy = [answers(count, 50 + step, noise=severity) for step, severity in enumerate(SEVERITIES)]
    lit = [answers(count, 60 + step, light=severity) for step, severity in enumerate(SEVERITIES)]
    rows = [part.rows.assign(shift="noise", severity=strong) for part, strong in zip(noisy, SEVERITIES, strict=True)]
    rows += [
        part.rows.assign(shift="brightness", severity=strong) for part, strong in zip(lit, SEVERITIES, strict=True)
    ]
    embeddings = [part.embedding for part in (*noisy, *lit) if part.embedding is not None]
    outputs = np.concatenate([part.outputs for part in (*noisy, *lit)])
    return Reference(pd.concat(rows, ignore_index=True), outputs, np.concatenate(embeddings), ("mean", "std"))


def window(answered: Reference, label_share: float = 0.0, source: str = "operator", first: int = 0) -> pd.DataFrame:
    """The answers as `FeedbackStore.window` gives them, the share labelled drawn evenly."""
    rows, count = answered.rows, len(answered.rows)
    labelled = np.random.default_rng(9).random(count) < label_share
    assert answered.embedding is not None
    return pd.DataFrame(
        {
            "id": [f"{first + number:08d}" for number in range(count)],
            "at": 1_700_000_000.0 + 60 * np.arange(first, first + count),
            "version": "1",
            "answer": rows["answer"],
            "confidence": rows["confidence"],
            "outputs": answered.outputs.tolist(),
            "embedding": [vector.astype("<f2").tobytes() for vector in answered.embedding],
            "label": rows["label"].where(labelled, None),
            "label_source": np.where(labelled, source, None),
            "mean": rows["mean"],
            "std": rows["std"],
        }
    )
