"""Copies of the reference under known shifts: what a version answers when the pictures change, with the truth known.

Confidence alone does not tell how wrong a model becomes on shifted inputs (Ovadia et al. 2019, "Can You Trust Your
Model's Uncertainty?"), but a model can be watched going wrong: Tomani et al. 2021, "Post-hoc Uncertainty Calibration
for Domain Drift Scenarios", calibrate on perturbed copies of the validation set, Deng & Zheng 2021, "Are Labels Always
Necessary for Classifier Accuracy Evaluation?", learn accuracy from such sets.

Shape legend: N images, H height, W width, C channels, K classes, D values of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.corruptions import corrupt
from labline.data.storing import pixel_statistics
from labline.reference import Reference

Pixels = npt.NDArray[np.uint8]
Answer = Callable[[Pixels], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]]

FAMILY, SEVERITY = "shift", "severity"  # columns of the rows, beside those of every reference
MILESTONES: dict[str, tuple[float, ...]] = {
    "noise": (0.02, 0.05, 0.1, 0.2),
    "blur": (0.4, 0.8, 1.2, 2.0),
    "brightness": (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.35),
    "exposure": (-1.5, -1.0, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0, 1.5),
    "contrast": (0.3, 0.5, 0.75, 1.5, 2.0),
    "gradient": (-1.0, -0.5, 0.5, 1.0),
}
NO_SHIFT = {"contrast": 1.0}  # of every other family it is 0


def _with_halfways(family: str, severities: tuple[float, ...]) -> tuple[float, ...]:
    """The severities and, between neighbours on one side of no shift, their geometric mean: accuracy bends there."""
    neutral = NO_SHIFT.get(family, 0.0)
    pairs = [(a, b) for a, b in pairwise(severities) if not a <= neutral <= b]
    return tuple(sorted({*severities, *(math.copysign(math.sqrt(a * b), a) for a, b in pairs)}))


SHIFTS = {family: _with_halfways(family, severities) for family, severities in MILESTONES.items()}
MOST_IMAGES = 600


def shifted_reference(
    images_NHWC: Pixels, targets_N: npt.NDArray[np.integer], labels: tuple[str, ...], answer: Answer
) -> Reference:
    """What a model answers to images of its test split under every shift: a `Reference` with two columns more.

    `shift` names the family and `severity` says how strong it is; `sample_id` is the image's position. At most 600
    images are used, evenly spread. `answer` gives probabilities N x K and the embedding N x D, or None.
    """
    chosen = np.unique(np.linspace(0, len(images_NHWC) - 1, MOST_IMAGES).round().astype(int))
    kept_NHWC, true_N = images_NHWC[chosen], targets_N[chosen]
    names = np.asarray(labels, dtype=object)
    frames, outputs, embeddings = [], [], []
    for family, severity, shifted_NHWC in shifted_images(kept_NHWC):
        probabilities_NK, embedding_ND = answer(shifted_NHWC)
        mean_N, std_N = pixel_statistics(shifted_NHWC)
        answered_N, confidence_N = names[probabilities_NK.argmax(axis=1)], probabilities_NK.max(axis=1)
        facts = {FAMILY: family, SEVERITY: severity, "sample_id": chosen, "label": names[true_N]}
        frames.append(
            pd.DataFrame({**facts, "answer": answered_N, "confidence": confidence_N, "mean": mean_N, "std": std_N})
        )
        outputs.append(probabilities_NK)
        embeddings.append(embedding_ND)
    whole = [embedding_ND for embedding_ND in embeddings if embedding_ND is not None]
    embedding_ND = np.concatenate(whole) if len(whole) == len(embeddings) else None
    return Reference(pd.concat(frames, ignore_index=True), np.concatenate(outputs), embedding_ND, ("mean", "std"))


def shifted_images(images_NHWC: Pixels) -> Iterator[tuple[str, float, Pixels]]:
    """Family, severity and the images under it, for each of SHIFTS.

    noise, blur, brightness: as in `labline.corruptions`. exposure: that many photographic stops, factors of 2.
    contrast: distances from each image's mean times so much. gradient: exposure from minus so many stops at the left
    edge to plus so many at the right.
    """
    across_W = np.linspace(-1, 1, images_NHWC.shape[2], dtype=np.float32)[:, None]
    for family, severities in SHIFTS.items():
        for severity in severities:
            if family in ("noise", "blur", "brightness"):
                yield family, severity, corrupt(images_NHWC, family, severity)  # type: ignore[arg-type]
                continue
            light_NHWC = images_NHWC.astype(np.float32)
            if family == "contrast":
                mean_NHWC = light_NHWC.mean(axis=(1, 2), keepdims=True)
                light_NHWC = mean_NHWC + severity * (light_NHWC - mean_NHWC)
            else:
                light_NHWC = light_NHWC * np.exp2(severity * (across_W if family == "gradient" else 1.0))
            yield family, severity, light_NHWC.round().clip(0, 255).astype(np.uint8)
