"""Pools of a version: what production would show it, healthy and under each kind of drift, with its real answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from labline.drifting import PHOTOGRAPHED, RENDERED, Drift, check_photographed
from labline.errors import BadInput, nearest
from labline.monitoring.simulation import Drift as Kind
from labline.pools import Shown, accuracy, answered, least_harmful, shown, with_blank_frames, with_new_class
from labline.replay import Sample, held_out, rendered
from labline.usecase import ImageUseCase
from tasks.version import Version, open_test_rows
from tasks.watched import reference_of, shifted_reference_of

if TYPE_CHECKING:
    from labline.monitoring.samples import Samples
    from labline.monitoring.shifts import Answer

HEALTHY, DRIFTED = 20_000, 4000  # images of a pool at most
COVARIATE: tuple[Kind, ...] = ("sudden", "gradual", "recurring")
HARM = 0.05  # points of accuracy that a covariate drift costs, where no magnitude is asked for
LEVELS = tuple(step / 20 for step in range(1, 21))  # from which it is chosen
SHARES: dict[Kind, float] = {"label-shift": 0.5, "new-class": 0.2, "sensor-fault": 0.2}
FEWEST = 500  # images that are worth leaving the validation split for

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pools:
    """A version's answers to healthy and to drifted images; `drifted` and `magnitude` are None without a drift.

    `magnitude` is a level of what moves, or the share of images that a drift concerns, 0 to 1; `source` says in words
    where the images come from.
    """

    healthy: Samples
    drifted: Samples | None
    magnitude: float | None
    source: str

    @property
    def cost(self) -> float:
        """How much accuracy the drift costs."""
        return accuracy(self.healthy) - accuracy(self.drifted) if self.drifted is not None else 0.0


@dataclass(frozen=True)
class Camera:
    """Shows `most` images of the version's production at most, under a drift; `moves` are the levels that it knows."""

    show: Callable[[Drift, int], Shown]
    most: int
    moves: tuple[str, ...]
    source: str
    ask: Callable[[Shown], Samples]


def open_camera(version: Version, seed: int) -> Camera:
    """Rendered images are made anew, those of any other source are held out: from what the reference is not made of.

    Raises BadInput for a forecaster.
    """
    from labline.packaged_model import open_model

    declaration = version.declaration
    if not isinstance(declaration, ImageUseCase):
        raise BadInput(
            f"{version.usecase}: images are simulated, whose predictions come in any order; what monitoring says of a "
            "series shows its past: labline replay with --from, then labline monitor"
        )
    model = open_model(version.folder, threads=0)
    _, height, width, channels = model.input.shape
    shape = (int(height or 0), int(width or 0), int(channels or 0))
    answer = answer_of(version)

    def ask(pool: Shown) -> Samples:
        return answered(pool, model.labels, answer)

    if declaration.data.source == "surfaces":
        return Camera(
            lambda drift, count: shown(rendered(declaration.data, drift, seed), count, shape),
            HEALTHY,
            RENDERED,
            "rendered anew",
            ask,
        )
    images_NHWC, labels, source = _held_out(version)
    names = [""] * len(labels)

    def show(drift: Drift, count: int) -> Shown:
        check_photographed(drift)
        samples: Iterator[Sample] = held_out(images_NHWC, labels, names, drift, seed)
        return shown(samples, count, shape)

    return Camera(show, min(HEALTHY, len(labels)), PHOTOGRAPHED, source, ask)


def make_pools(camera: Camera, kind: Kind, move: str, magnitude: float | None, seed: int) -> Pools:
    """The pools for a kind of drift.

    What moves suddenly, gradually or again and again is a level, such as lighting; without a magnitude the least one
    that costs five points of accuracy. Raises BadInput for a move these images do not know and a share above 1.
    """
    if move not in camera.moves:
        raise BadInput(f"--move {move}: these images have no such level; {nearest(move, camera.moves)}")
    if kind in SHARES and magnitude is not None and magnitude > 1:
        raise BadInput(f"--magnitude {magnitude:g}: of {kind} it is a share, from 0 to 1")
    healthy = camera.ask(camera.show(Drift(), camera.most))
    if kind == "none":
        return Pools(healthy, None, None, camera.source)
    if kind in COVARIATE:
        size = magnitude if magnitude is not None else _least_harmful(camera, move, accuracy(healthy))
        return Pools(healthy, _moved(camera, move, size), size, camera.source)
    share = magnitude if magnitude is not None else SHARES[kind]
    return Pools(healthy, camera.ask(_drifted(camera, kind, share, healthy, seed)), share, camera.source)


def answer_of(version: Version) -> Answer:
    """Asks the released model: probabilities and, where it has one, the embedding."""
    from labline.packaged_model import EMBEDDING, PROBABILITIES, open_model

    model = open_model(version.folder, threads=0)
    names = (PROBABILITIES, EMBEDDING) if model.has_embedding else (PROBABILITIES,)

    def answer(images_NHWC: Pixels) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        probabilities_NK, *embedding = model.answer(images_NHWC, names)
        return probabilities_NK, embedding[0] if embedding else None

    return answer


def _moved(camera: Camera, move: str, level: float) -> Samples:
    return camera.ask(camera.show(Drift({move: level}), min(DRIFTED, camera.most)))


def _least_harmful(camera: Camera, move: str, healthy: float) -> float:
    return least_harmful(LEVELS, lambda level: healthy - accuracy(_moved(camera, move, level)), HARM)


def _drifted(camera: Camera, kind: Kind, share: float, healthy: Samples, seed: int) -> Shown:
    count = min(DRIFTED, camera.most)
    if kind == "label-shift":
        return camera.show(Drift(mix={hardest_class(healthy): share}), count)
    usual = camera.show(Drift(), count)
    return with_new_class(usual, share) if kind == "new-class" else with_blank_frames(usual, share, seed)


def hardest_class(samples: Samples) -> str:
    """The class that is most often answered wrongly."""
    names = sorted({*samples.label})
    return str(min(names, key=lambda name: samples.correct[samples.label == name].mean()))


def _held_out(version: Version) -> tuple[Pixels, list[str], str]:
    """Images of the test split that no reference is made of, or, where those are few, of the validation split."""
    data = open_test_rows(version)
    images_NHWC, targets_N = data.split("test")
    used_N = data.rows("test")["sample_id"].isin(reference_of(version).rows["sample_id"]).to_numpy(copy=True)
    shifted = shifted_reference_of(version)
    if shifted is not None:
        used_N[shifted.rows["sample_id"].unique()] = True
    left_N = np.flatnonzero(~used_N)
    if len(left_N) >= FEWEST:
        source = f"{len(left_N):,} images of the test split that monitoring has not seen"
        images_NHWC, targets_N = images_NHWC[left_N], targets_N[left_N]
    else:
        images_NHWC, targets_N = data.split("validation")
        source = f"the {len(targets_N):,} images of the validation split"
    return images_NHWC, [data.labels[target] for target in targets_N], source
