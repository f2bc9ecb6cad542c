"""Pools of a version under every kind of drift at several levels, to see how well its accuracy is estimated there."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from labline.drifting import Drift
from labline.estimation_errors import Shift
from labline.monitoring.samples import Samples
from labline.pools import Shown, with_another_truth, with_blank_frames, with_new_class
from tasks.pools import Camera, hardest_class

Pixels = npt.NDArray[np.uint8]

MOST = 3000  # images of a pool
RENDERED_LEVELS = {
    "lighting": (-0.45, -0.3, -0.15, -0.08, 0.08, 0.15, 0.3, 0.45),
    "blur": (0.1, 0.2, 0.4),
    "noise": (0.1, 0.2, 0.4),
}
PHOTOGRAPHED_LEVELS = {  # none of them a level of labline.monitoring.shifts
    "lighting": (-0.8, -0.35, 0.35, 0.8),
    "brightness": (-0.15, -0.07, 0.07, 0.15),
    "noise": (0.015, 0.03, 0.07),
    "blur": (0.3, 0.6, 1.0),
}
QUALITIES, FACTORS, SHARES = (60.0, 30.0, 15.0), (0.8, 0.6, 0.45), (0.1, 0.3)
KNOWN, UNKNOWN = ("lighting", "brightness", "noise", "blur"), ("jpeg", "resolution")  # to the shifted reference


def shifted_pools(camera: Camera, told: Callable[[str], None], seed: int) -> list[Shift]:
    """The healthy pool first. Levels of jpeg are its quality, those of resolution a factor."""
    found: list[Shift] = []
    for kind, level, pool in _shown(camera, seed):
        told(f"{kind} {level:g}")
        found.append(Shift(kind, level, camera.ask(pool)))
    return found + _other_classes(camera, found[0].samples)


def _shown(camera: Camera, seed: int) -> Iterator[tuple[str, float, Shown]]:
    count = min(MOST, camera.most)
    usual = camera.show(Drift(), count)
    yield "healthy", 0.0, usual
    for kind, levels in (RENDERED_LEVELS if "brightness" not in camera.moves else PHOTOGRAPHED_LEVELS).items():
        for level in levels:
            yield kind, level, camera.show(Drift({kind: level}), count)
    for quality in QUALITIES:
        yield "jpeg", quality, Shown(_each(usual.images, partial(_jpeg, quality=quality)), usual.truths)
    for factor in FACTORS:
        yield "resolution", factor, Shown(_each(usual.images, partial(_coarse, factor=factor)), usual.truths)
    for share in SHARES:
        yield "sensor-fault", share, with_blank_frames(usual, share, seed)
        yield "new-class", share, with_new_class(usual, share)
        yield "concept drift", share, with_another_truth(usual, share)


def _other_classes(camera: Camera, healthy: Samples) -> list[Shift]:
    hardest, count = hardest_class(healthy), min(MOST, camera.most)
    shares = (0.3, 0.5, 0.8)
    return [
        Shift("label-shift", share, camera.ask(camera.show(Drift(mix={hardest: share}), count))) for share in shares
    ]


def _each(images_NHWC: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Every image changed as a picture; uint8 of the same shape."""
    grey = images_NHWC.shape[3] == 1
    pictures = [np.asarray(change(Image.fromarray(image[..., 0] if grey else image))) for image in images_NHWC]
    return np.stack(pictures).reshape(images_NHWC.shape)


def _jpeg(picture: Image.Image, quality: float) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(quality))
    return Image.open(file)


def _coarse(picture: Image.Image, factor: float) -> Image.Image:
    smaller = picture.resize([max(4, int(side * factor)) for side in picture.size], Image.Resampling.BILINEAR)
    return smaller.resize(picture.size, Image.Resampling.BILINEAR)
