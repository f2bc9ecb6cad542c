"""Pools: images as production would show them, healthy or drifted, and what a model answers to them.

What is shown comes from `labline.replay`, so that a simulation and a replay mean the same by `lighting=0.6`.

Shape legend: N images, H height, W width, C channels, K classes, D values of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from labline.data.storing import pixel_statistics
from labline.monitoring.samples import Samples
from labline.monitoring.shifts import Answer
from labline.reference import KEPT_AS
from labline.replay import Sample

Pixels = npt.NDArray[np.uint8]

BATCH = 256
NEW_CLASS = "none of the known classes"


@dataclass(frozen=True)
class Shown:
    """Images N x H x W x C, and the true class of each."""

    images: Pixels
    truths: npt.NDArray[np.object_]


def shown(samples: Iterator[Sample], count: int, shape_HWC: tuple[int, int, int]) -> Shown:
    """The first so many of a replay of raw pixels."""
    drawn = list(islice(samples, count))
    images_NHWC = np.frombuffer(b"".join(sample.body for sample in drawn), dtype=np.uint8).reshape(-1, *shape_HWC)
    return Shown(images_NHWC, np.array([sample.truth for sample in drawn], dtype=object))


def with_blank_frames(pool: Shown, share: float, seed: int) -> Shown:
    """A share of the frames, evenly spread, is lost to a sensor fault: one grey level and half a level of noise."""
    generator, lost_N = np.random.default_rng(seed), _spread(len(pool.truths), share)
    images_NHWC = pool.images.copy()
    level_N111 = generator.uniform(5, 250, (int(lost_N.sum()), 1, 1, 1))
    grain_NHWC = generator.standard_normal((len(level_N111), *images_NHWC.shape[1:]), dtype=np.float32)
    images_NHWC[lost_N] = (level_N111 + 0.5 * grain_NHWC).round().clip(0, 255)
    return replace(pool, images=images_NHWC)


def with_new_class(pool: Shown, share: float) -> Shown:
    """A share of the images, evenly spread, is of a class that no training has seen: every answer to it is wrong.

    Such an image is a collage of one quarter each of four images, which looks like the others and shows none of them.
    """
    new_N = _spread(len(pool.truths), share)
    images_NHWC, truths = pool.images.copy(), pool.truths.copy()
    half_height, half_width = (side // 2 for side in images_NHWC.shape[1:3])
    step = max(1, len(truths) // 4)
    for quarter, (rows, columns) in enumerate(
        [
            (slice(None, half_height), slice(half_width, None)),
            (slice(half_height, None), slice(None, half_width)),
            (slice(half_height, None), slice(half_width, None)),
        ],
        start=1,
    ):
        images_NHWC[new_N, rows, columns] = np.roll(pool.images, quarter * step, axis=0)[new_N, rows, columns]
    truths[new_N] = NEW_CLASS
    return Shown(images_NHWC, truths)


def with_another_truth(pool: Shown, share: float) -> Shown:
    """Concept drift: the same images, but a share of every class counts as the next class from now on."""
    truths, names = pool.truths.copy(), sorted({*pool.truths})
    for position, name in enumerate(names):
        of_class = np.flatnonzero(pool.truths == name)
        truths[of_class[_spread(len(of_class), share)]] = names[(position + 1) % len(names)]
    return replace(pool, truths=truths)


def answered(pool: Shown, labels: tuple[str, ...], answer: Answer) -> Samples:
    """What a model answers to a pool, as monitoring sees it; `answer` as in `labline.monitoring.shifts`."""
    blocks = [answer(pool.images[first : first + BATCH]) for first in range(0, len(pool.truths), BATCH)]
    probabilities_NK = np.concatenate([probabilities for probabilities, _ in blocks])
    whole = [embedding for _, embedding in blocks if embedding is not None]
    mean_N, std_N = pixel_statistics(pool.images)
    return Samples(
        features={"mean": mean_N.astype(np.float64), "std": std_N.astype(np.float64)},
        outputs=probabilities_NK.astype(np.float64),
        embedding=np.concatenate(whole).astype(KEPT_AS).astype(np.float32) if whole else None,
        answer=np.asarray(labels, dtype=object)[probabilities_NK.argmax(axis=1)],
        label=pool.truths,
        reviewed=np.zeros(len(pool.truths), dtype=bool),
        classifies=True,
    )


def accuracy(samples: Samples) -> float:
    """The share of right answers."""
    return float(samples.correct.mean())


def least_harmful(levels: tuple[float, ...], cost: Callable[[float], float], wanted: float) -> float:
    """The first of ascending levels that costs so much, or the last one."""
    return next((level for level in levels if cost(level) >= wanted), levels[-1])


def _spread(count: int, share: float) -> npt.NDArray[np.bool_]:
    """Which of so many are chosen: that share of them, as evenly spread as can be."""
    steps = np.floor(np.arange(count + 1) * share)
    chosen_N: npt.NDArray[np.bool_] = np.diff(steps) > 0
    return chosen_N
