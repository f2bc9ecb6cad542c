"""Fixed corruptions of test images: how far a model's accuracy holds when the camera gets worse.

After Hendrycks & Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (arXiv:1903.12261): noise, blur and brightness stand for its noise, blur and weather groups.
Unlike the transforms of `labline.augmentation` they are the same for every image, and drawn once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from labline.errors import BadInput, nearest
from labline.usecase import Corruption

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Change = Callable[[Floats, float, np.random.Generator], Floats]

BLOCK_VALUES = 4_000_000  # pixel values held as float32 at once: 16 MB
REFERENCE_SIZE = 32  # pixels; a blur of one sigma looks alike at every image size


def corrupt(images_NHWC: Pixels, name: Corruption, severity: float, seed: int = 0) -> Pixels:
    """The images under one corruption: a new uint8 array of the same shape; the input is never written to.

    `severity` is, for "noise", the standard deviation of Gaussian noise as a share of 255; for "blur", the
    sigma of a Gaussian in pixels of an image of 32 pixels, scaled with the image's height; for "brightness",
    the signed share of 255 added. 0 changes nothing. The same seed draws the same noise, and each image the
    same whatever follows it. Raises BadInput for other names, and for a negative noise or blur.
    """
    if name not in get_args(Corruption):
        raise BadInput(f"corruption {name!r} is not known; {nearest(name, get_args(Corruption))}")
    if severity < 0 and name != "brightness":
        raise BadInput(f"corruption {name}: severity {severity:g}, expected 0 or more; only brightness has a sign")
    if severity == 0:
        return images_NHWC.copy()
    generator = np.random.default_rng(seed)
    corrupted_NHWC = np.empty_like(images_NHWC)
    for block in _blocks(images_NHWC.shape):
        changed_NHWC = CORRUPTIONS[name](images_NHWC[block].astype(np.float32), severity, generator)
        corrupted_NHWC[block] = changed_NHWC.round().clip(0, 255)
    return corrupted_NHWC


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, BLOCK_VALUES // int(np.prod(shape[1:])))
    return (slice(start, start + step) for start in range(0, shape[0], step))


def _noise(images_NHWC: Floats, severity: float, generator: np.random.Generator) -> Floats:
    drawn_NHWC = generator.standard_normal(images_NHWC.shape, dtype=np.float32)
    return images_NHWC + np.float32(255 * severity) * drawn_NHWC


def _blur(images_NHWC: Floats, severity: float, generator: np.random.Generator) -> Floats:
    sigma = severity * images_NHWC.shape[1] / REFERENCE_SIZE
    blurred_NHWC: Floats = ndimage.gaussian_filter(images_NHWC, (0, sigma, sigma, 0))
    return blurred_NHWC


def _brightness(images_NHWC: Floats, severity: float, generator: np.random.Generator) -> Floats:
    return images_NHWC + np.float32(255 * severity)


CORRUPTIONS: dict[Corruption, Change] = {"noise": _noise, "blur": _blur, "brightness": _brightness}
