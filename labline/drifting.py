"""Drift to order: how what production sees moves away from what a version learned from, suddenly or little by little.

Rendered surfaces drift by the renderer's own conditions (`labline.data.surfaces.Conditions`), images of any other data
set by `labline.corruptions` and by their exposure; the classes of both by how often each is seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from labline.corruptions import CORRUPTIONS, corrupt
from labline.errors import BadInput, nearest
from labline.usecase import LARGEST_SEVERITY

Pixels = npt.NDArray[np.uint8]

LIGHTING = "lighting"
MIX = "mix"
MOST_STOPS = 4.0
RENDERED = (LIGHTING, "blur", "noise", "duplicates", "blank")  # Conditions that change what is seen
PHOTOGRAPHED = (LIGHTING, *CORRUPTIONS)
EXAMPLE = "expected NAME=VALUE, such as lighting=0.6, or mix=CLASS:SHARE[,CLASS:SHARE]"


@dataclass(frozen=True)
class Drift:
    """What differs once the drift is complete.

    `levels`: the value of each named condition; `mix`: the share of each named class, 0 to 1, the others keeping their
    proportions within the rest; `ramp`: over how many samples it grows to that, evenly; 0: it is there at once.
    """

    levels: Mapping[str, float] = field(default_factory=dict)
    mix: Mapping[str, float] = field(default_factory=dict)
    ramp: int = 0

    def progress(self, sent: int) -> float:
        """How much of the drift has come when so many samples were sent, 0 to 1."""
        return min(1.0, sent / self.ramp) if self.ramp else 1.0


def parse_drift(words: Iterable[str], known: Sequence[str], labels: Sequence[str], ramp: int = 0) -> Drift:
    """The drift that words such as `lighting=0.6` and `mix=crazing:0.5` ask for.

    `known` are the conditions that these images have, `labels` their classes. Raises BadInput for a name that is none
    of them, a value that is no finite number, a name given twice, and shares that are none.
    """
    levels: dict[str, float] = {}
    mix: dict[str, float] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or name in levels or (name == MIX and mix):
            raise BadInput(f"--drift {word}: {EXAMPLE}, each name once")
        if name == MIX:
            mix = _shares(word, value, labels)
        elif name in known:
            levels[name] = _number(word, value)
        else:
            raise BadInput(f"--drift {word}: these images have no {name!r}; {nearest(name, [*known, MIX])}")
    return Drift(levels, mix, ramp)


def mixed(usual: Mapping[str, float], drift: Drift, progress: float) -> dict[str, float]:
    """The share of every class after so much of the drift; `usual` are the shares, or weights, before it."""
    total = sum(usual.values())
    before = {label: weight / total for label, weight in usual.items()}
    if not drift.mix:
        return before
    rest = 1 - sum(drift.mix.values())
    others = sum(share for label, share in before.items() if label not in drift.mix)
    after = {
        label: drift.mix[label] if label in drift.mix else rest * share / others if others else 0.0
        for label, share in before.items()
    }
    return {label: (1 - progress) * before[label] + progress * after[label] for label in before}


def drifted(images_NHWC: Pixels, drift: Drift, progress: float, seed: int) -> Pixels:
    """Images after so much of the drift, uint8 of the same shape; the input is never written to.

    `lighting` is in photographic stops: at 1 twice, at -1 half as much light falls on the scene, which changes
    brightness and contrast together and saturates the sensor. The others are severities of
    `labline.corruptions.corrupt`, in its order.
    """
    changed_NHWC = images_NHWC
    if stops := progress * drift.levels.get(LIGHTING, 0.0):
        lit_NHWC = changed_NHWC.astype(np.float32) * np.float32(2.0**stops)
        changed_NHWC = lit_NHWC.round().clip(0, 255).astype(np.uint8)
    for name in CORRUPTIONS:
        if severity := progress * drift.levels.get(name, 0.0):
            changed_NHWC = corrupt(changed_NHWC, name, severity, seed)
    return changed_NHWC


def check_photographed(drift: Drift) -> None:
    """Raise BadInput for a level that images of a data set cannot have."""
    limits: dict[str, tuple[float, float]] = {name: (0.0, most) for name, most in LARGEST_SEVERITY.items()}
    limits[LIGHTING] = (-MOST_STOPS, MOST_STOPS)
    limits["brightness"] = (-LARGEST_SEVERITY["brightness"], LARGEST_SEVERITY["brightness"])
    for name, level in drift.levels.items():
        low, high = limits[name]
        if not low <= level <= high:
            raise BadInput(f"--drift {name}={level:g}: expected a number from {low:g} to {high:g}")


def _number(word: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"--drift {word}: {value!r} is no number; {EXAMPLE}")
    return number


def _shares(word: str, value: str, labels: Sequence[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in value.split(","):
        label, separator, share = part.rpartition(":")
        if not separator or label in shares:
            raise BadInput(f"--drift {word}: {EXAMPLE}, each class once")
        if label not in labels:
            raise BadInput(f"--drift {word}: there is no class {label!r}; {nearest(label, labels)}")
        shares[label] = _number(word, share)
    total = sum(shares.values())
    whole = set(shares) == set(labels)
    if min(shares.values()) < 0 or total > 1 + 1e-9 or (whole and total < 1 - 1e-9):
        expected = "shares that make 1" if whole else "shares of 0 to 1 that make no more than 1"
        raise BadInput(f"--drift {word}: the shares make {total:g}; expected {expected}")
    return shares
