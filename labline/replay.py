"""Replay: what a service is asked and later told, as production would do it, with the truth known.

Pure: who sends it, how fast and where to is not known here.

Shape legend: N images, H height, W width, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from labline.data import surfaces
from labline.drifting import MIX, RENDERED, Drift, drifted, mixed
from labline.errors import BadInput
from labline.usecase import Data

Pixels = npt.NDArray[np.uint8]
Form = Literal["raw", "png"]

MEDIA: dict[Form, str] = {"raw": "application/octet-stream", "png": "image/png"}
BLOCK = surfaces.BLOCK  # samples made together, at one step of the drift's ramp
KEPT = ("lighting", "blur", "noise")  # of the declared conditions; the others plant mistakes
STRIPS_A_SEED = 1_000_000 * BLOCK  # no two seeds show the same strip before so many


@dataclass(frozen=True, slots=True)
class Sample:
    """One request, and what is true of it.

    `name`: the client's own reference. `truth`: class name, or the realised target of a series; None where nobody will
    ever know it. `known_after`: how many further samples have to be sent before anybody can know it.
    """

    body: bytes
    content_type: str
    name: str
    truth: str | float | None
    known_after: int = 0


def rendered(data: Data, drift: Drift, seed: int, form: Form = "raw") -> Iterator[Sample]:
    """Strips that no training has seen, rendered as declared but for the drift, without end.

    Of the same production as the training data, later: other seeds show other strips of it. Planted mistakes (wrong
    labels, duplicates, blank frames) are left out, unless the drift asks for them; the truth is the class drawn.
    Raises BadInput where a condition is out of its range.
    """
    declared: dict[str, float] = {name: data.options.get(name, 0.0) for name in KEPT}
    usual = data.options.get("class_mix") or dict.fromkeys(surfaces.CLASSES, 1.0)
    usual = {label: float(usual.get(label, 0)) for label in surfaces.CLASSES}
    # What is out of range is refused before anything is sent.
    surfaces.Conditions(**_between(declared, drift, 1.0), class_mix=usual)
    first = -(-data.options.get("samples", 4000) // BLOCK) * BLOCK + seed * STRIPS_A_SEED

    def make() -> Iterator[Sample]:
        sent = 0
        while True:
            progress = drift.progress(sent)
            conditions = surfaces.Conditions(
                **_between(declared, drift, progress), class_mix=mixed(usual, drift, progress) if drift.mix else usual
            )
            made = surfaces.render(BLOCK, data.image_size, data.split.seed, conditions, start=first + sent)
            images_NHWC = np.broadcast_to(made.images, (*made.images.shape[:3], data.channels))
            for pixels, truth, name in zip(images_NHWC, made.true_labels, made.sample_ids, strict=True):
                yield Sample(encoded(pixels, form), MEDIA[form], name, truth)
            sent += BLOCK

    return make()


def held_out(
    images_NHWC: Pixels,
    labels: Sequence[str],
    names: Sequence[str],
    drift: Drift,
    seed: int,
    form: Form = "raw",
) -> Iterator[Sample]:
    """Images of a data set, drifted, without end: every one once in random order before any comes again.

    Where the drift mixes classes, each is drawn by its share, and every image of a class comes once before any again.
    """
    generator = np.random.default_rng(seed)
    order = _in_shares(labels, drift, generator) if drift.mix else _in_passes(np.arange(len(labels)), generator)
    sent = 0
    while True:
        rows = [next(order) for _ in range(BLOCK)]
        block_NHWC = drifted(images_NHWC[rows], drift, drift.progress(sent), seed + sent)
        for pixels, row in zip(block_NHWC, rows, strict=True):
            yield Sample(encoded(pixels, form), MEDIA[form], names[row], labels[row])
        sent += BLOCK


def encoded(pixels_HWC: Pixels, form: Form) -> bytes:
    """An image as the body of a request: its pixels row by row, or a PNG."""
    if form == "raw":
        return pixels_HWC.tobytes()
    file = io.BytesIO()
    Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[2] == 1 else pixels_HWC).save(file, "PNG", compress_level=1)
    return file.getvalue()


@dataclass(frozen=True)
class Labelling:
    """How truth comes back: the `share` of samples that anybody labels, and the share of labels that are `wrong`."""

    share: float = 1.0
    wrong: float = 0.0

    def label(
        self, truth: str | float | None, labels: Sequence[str], generator: np.random.Generator
    ) -> str | float | None:
        """The label that comes back for a sample; None where none does. A wrong one is another class, all alike."""
        labelled, mistaken, which = generator.random(3)
        if truth is None or labelled >= self.share:
            return None
        others = [label for label in labels if label != truth]
        return others[int(which * len(others))] if others and mistaken < self.wrong else truth


def _between(declared: Mapping[str, float], drift: Drift, progress: float) -> dict[str, float]:
    """The conditions that far on the way from those declared, 0 where none is, to those of the drift."""
    usual = dict.fromkeys(RENDERED, 0.0) | dict(declared)
    return {name: (1 - progress) * before + progress * drift.levels.get(name, before) for name, before in usual.items()}


def _in_passes(rows: npt.NDArray[np.int64], generator: np.random.Generator) -> Iterator[int]:
    """Every row once in random order, and again in another."""
    while True:
        yield from generator.permutation(rows).tolist()


def _in_shares(labels: Sequence[str], drift: Drift, generator: np.random.Generator) -> Iterator[int]:
    """Rows whose classes are drawn by their share."""
    rows_of: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    for label, share in drift.mix.items():
        if share and label not in rows_of:
            raise BadInput(f"--drift {MIX}={label}:{share:g}: there is no image of {label!r} among those held out")
    passes = {label: _in_passes(np.array(rows), generator) for label, rows in rows_of.items()}
    usual = {label: float(len(rows)) for label, rows in rows_of.items()}
    sent = 0
    while True:
        shares = mixed(usual, drift, drift.progress(sent))
        yield next(passes[str(generator.choice(list(shares), p=list(shares.values())))])
        sent += 1
