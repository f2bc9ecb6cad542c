"""Synthetic photographs of hot-rolled steel strip: the embedded data set that needs no download.

Nothing here is a measurement. Six classes of surface defect, named as in the NEU surface defect database
(Song & Yan, "A noise robust method based on completed local binary patterns for hot-rolled steel strip
surface defects", Applied Surface Science 285, 2013) and imitating what its pictures look like, are drawn as
Gaussian random fields and strokes on a rolled surface, lit, photographed and annotated. Difficulty is on
purpose: severity runs from faint to strong, so that a good network errs on a few images in a hundred.

Strips are numbered. What strip `index` looks like depends on the seed and its index alone, so any range can
be rendered without the rest, and changing one of the `Conditions` leaves all else as it was. The rolling
direction is vertical; lengths are shares of the image side, so pictures look alike at every size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft2
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from labline.errors import BadInput, nearest

Array = npt.NDArray[np.float32]

CLASSES = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
BLOCK = 32  # strips rendered together, from one random stream
SMALLEST_IMAGE = 16  # below it most defects are thinner than a pixel

RANGES = {
    "lighting": (-1.0, 1.0),
    "blur": (0.0, 1.0),
    "noise": (0.0, 1.0),
    "label_noise": (0.0, 1.0),
    "duplicates": (0.0, 1.0),
    "blank": (0.0, 1.0),
}

# One uniform random number per strip for each name; painters read `size`, `reach` and `amount` as they need.
DRAWS = np.dtype(
    [(name, np.float32) for name in ("kind", "severity", "size", "reach", "amount")]
    + [(name, np.float32) for name in ("level", "tilt", "streaks", "roughness")]
    + [(name, np.float32) for name in ("relabelled", "wrong_label", "repeated", "identical", "exposure", "fault")]
)
STROKES = 4
STROKE_DRAWS = 7


def _check_class_mix(class_mix: object) -> None:
    if not isinstance(class_mix, Mapping):
        raise BadInput(f"surfaces: class_mix must map class names to relative frequencies, not {class_mix!r}")
    for name, weight in class_mix.items():
        if name not in CLASSES:
            raise BadInput(f"surfaces: unknown class {name!r} in class_mix; {nearest(str(name), CLASSES)}")
        if not _is_number(weight) or not 0 <= weight < np.inf:
            raise BadInput(f"surfaces: class_mix of {name!r} must be a number from 0 up, not {weight!r}")
    if not sum(class_mix.values()) > 0:
        raise BadInput("surfaces: class_mix must give at least one class a frequency above 0")


def _check_whole(name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise BadInput(f"surfaces: {name} must be a whole number, {low} or more, not {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Conditions:
    """How the plant behaves while the pictures are taken; the defaults are the neutral state.

    - `lighting`, -1 (dim) to 1 (glaring): the lamp is brighter by 0.5 (left edge) to 1.9 (right edge) times as
      many photographic stops, factors of 2; glare saturates the sensor.
    - `blur`, 0 to 1: defocus; 1 is a Gaussian of 3 % of the image side.
    - `noise`, 0 to 1: sensor noise added to the neutral 1.5 %; 1 adds 8 % of full scale.
    - `class_mix`: relative frequency of classes, those not named never occur; None is all alike.
    - `label_noise`: share of labels replaced by another class, drawn evenly.
    - `duplicates`: share of frames that show the strip of the frame before once more: half of them the same
      bytes, half shot again with other noise and up to 4 % other exposure.
    - `blank`: share of frames without a picture (sensor fault): an even grey, a level of noise at most.

    The last three are planted on purpose: they are what the cleaning stage is there to find.
    Raises BadInput for a value out of its range or a class that does not exist.
    """

    lighting: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    class_mix: Mapping[str, float] | None = None
    label_noise: float = 0.0
    duplicates: float = 0.0
    blank: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not _is_number(value) or not low <= value <= high:
                raise BadInput(f"surfaces: {name} must be a number from {low:g} to {high:g}, not {value!r}")
        if self.class_mix is not None:
            _check_class_mix(self.class_mix)


@dataclass(frozen=True)
class Surfaces:
    """Rendered frames, in the order of their indices.

    `images`: uint8, N x H x W x 1. `labels`: as annotated, label noise included. `true_labels`: the class that
    was drawn. `sample_ids`: unique and stable, such as `surface-0-000017`. `strips`: int64, the index of the strip
    each frame shows, its own unless the frame is a duplicate. `blank`: bool, frames lost to a sensor fault.
    """

    images: npt.NDArray[np.uint8]
    labels: list[str]
    true_labels: list[str]
    sample_ids: list[str]
    strips: npt.NDArray[np.int64]
    blank: npt.NDArray[np.bool_]


def load(options: Mapping[str, Any], image_size: int, seed: int) -> Surfaces:
    """The `surfaces` source: options are `samples` (4000) and the fields of `Conditions`.

    Raises BadInput for an unknown option, a wrong type or a value out of range.
    """
    valid = {"samples", *(field.name for field in dataclasses.fields(Conditions))}
    for name in options:
        if name not in valid:
            raise BadInput(f"surfaces: unknown option {name!r} in [data.options]; {nearest(name, valid)}")
    knobs = dict(options)
    samples = knobs.pop("samples", 4000)
    return render(samples, image_size, seed, Conditions(**knobs))


def render(
    samples: int, image_size: int, seed: int, conditions: Conditions = Conditions(), *, start: int = 0
) -> Surfaces:
    """Render the frames `start` to `start + samples` of the strip that `seed` stands for.

    Deterministic per seed and index: a later window of the same production is the same call with a later `start`.
    Raises BadInput where a count is not a whole number in range.
    """
    _check_whole("samples", samples, 1)
    _check_whole("image_size", image_size, SMALLEST_IMAGE)
    _check_whole("seed", seed, 0)
    _check_whole("start", start, 0)
    blocks = range(start // BLOCK, (start + samples - 1) // BLOCK + 1)
    frames = [_render_block(block, image_size, seed, conditions) for block in blocks]
    offset = start - blocks[0] * BLOCK
    images_NHW, drawn, annotated, strips, blank = (
        np.concatenate(part)[offset : offset + samples] for part in zip(*frames, strict=True)
    )
    return Surfaces(
        images=images_NHW[..., None],
        labels=[CLASSES[k] for k in annotated],
        true_labels=[CLASSES[k] for k in drawn],
        sample_ids=[f"surface-{seed}-{index:06d}" for index in range(start, start + samples)],
        strips=strips,
        blank=blank,
    )


@dataclass(frozen=True)
class _Strips:
    """The randomness of some strips: `draws` (N records of DRAWS), white `spectra` (2 of them, complex64
    N x H x W//2+1) and `strokes` (N x STROKES x STROKE_DRAWS, uniform)."""

    draws: npt.NDArray[np.void]
    spectra: npt.NDArray[np.complex64]
    strokes: Array

    def uniform(self, name: str, low: float, high: float) -> Array:
        """N x 1 x 1 values between low and high."""
        return np.float32(low) + np.float32(high - low) * self.draws[name][:, None, None]

    def field(self, layer: int, across: float | Array, along: float | Array) -> Array:
        """N x H x W random fields with correlation lengths across and along the rolling direction."""
        return _random_field(self.spectra[layer], across, along)


def _render_block(block: int, image_size: int, seed: int, conditions: Conditions) -> tuple[npt.NDArray[Any], ...]:
    """Images NHW, class drawn, class annotated, strip shown and fault of one block's frames.

    All random numbers are drawn first, whatever the conditions, so that conditions do not disturb each other.
    """
    generator = np.random.default_rng((seed, block))
    draws = generator.random((BLOCK, len(DRAWS.fields or ())), np.float32).view(DRAWS)[:, 0]
    strokes = generator.random((BLOCK, STROKES, STROKE_DRAWS), np.float32)
    shape = (3, BLOCK, image_size, image_size // 2 + 1, 2)
    spectra = generator.standard_normal(shape, np.float32).view(np.complex64)[..., 0]
    grain_NHW = generator.standard_normal((BLOCK, image_size, image_size), np.float32)

    kinds = _classes(draws["kind"], conditions.class_mix)
    surface_NHW = _rolled_steel(draws, spectra[0], image_size)
    for kind, paint in enumerate(PAINTERS):
        rows = np.flatnonzero(kinds == kind)
        if len(rows):
            strips = _Strips(draws[rows], spectra[1:, rows], strokes[rows])
            surface_NHW[rows] *= 1 + strips.uniform("severity", *SEVERITY[kind]) * paint(strips)

    blank_N = draws["fault"] < conditions.blank
    shown_N = _strip_shown(draws["repeated"] < conditions.duplicates, blank_N)
    images_NHW = _photograph(surface_NHW[shown_N], draws, grain_NHW, shown_N, conditions)
    identical = np.where(draws["identical"] < 0.5, shown_N, np.arange(BLOCK))
    images_NHW = images_NHW[identical]
    images_NHW[blank_N] = _blank_frames(draws[blank_N], grain_NHW[blank_N])
    drawn_N = kinds[shown_N]
    return images_NHW, drawn_N, _annotate(drawn_N, draws, conditions), block * BLOCK + shown_N, blank_N


def _rolled_steel(draws: npt.NDArray[np.void], spectrum: npt.NDArray[np.complex64], image_size: int) -> Array:
    """N x H x W reflectance around 1 of a strip without a defect: streaks along the rolling direction, roughness."""
    streaks = _random_field(spectrum, 0.012, 0.35) * (0.02 + 0.06 * draws["streaks"])[:, None, None]
    # Read upside down, the same white spectrum gives a second field for nothing.
    roughness = _random_field(spectrum[:, ::-1], 0.007, 0.007) * (0.02 + 0.05 * draws["roughness"])[:, None, None]
    return (1 + streaks + roughness).astype(np.float32, copy=False)


def _crazing(strips: _Strips) -> Array:
    """A net of fine dark cracks, mostly across the strip, on a mottled surface."""
    length = strips.uniform("size", 0.03, 0.055)
    cracks: Array = np.exp(-np.square(6 * strips.field(0, length, 0.6 * length)))
    spread = _threshold(strips.field(1, 0.12, 0.12), strips.uniform("reach", -1.2, 0.6), 3)
    crazed: Array = 0.2 * strips.field(1, 0.012, 0.012) - cracks * spread
    return crazed


def _inclusion(strips: _Strips) -> Array:
    """Dark slivers drawn out along the rolling direction, gathered in a few lines."""
    sliver = strips.uniform("size", 0.011, 0.024)
    lines = strips.field(1, 0.07, 0.5)
    return -_threshold(strips.field(0, sliver, 4 * sliver) + 0.8 * lines, strips.uniform("amount", 1.5, 2.6), 6)


def _patches(strips: _Strips) -> Array:
    """Large dark areas with ragged edges."""
    size = strips.uniform("size", 0.06, 0.15)
    ragged = strips.field(0, size, 1.4 * size) + 0.25 * strips.field(1, 0.02, 0.02)
    return -_threshold(ragged, strips.uniform("amount", -0.1, 1.2), 6)


def _pitted_surface(strips: _Strips) -> Array:
    """Small dark pits strewn over the strip, here denser, there sparser."""
    pit = strips.uniform("size", 0.01, 0.02)
    density = strips.field(1, 0.15, 0.15)
    return -_threshold(strips.field(0, pit, pit) + 0.4 * density, strips.uniform("amount", 1.6, 2.4), 7)


def _rolled_in_scale(strips: _Strips) -> Array:
    """Flakes pressed into the surface: wide dark flecks, each with a bright rim below it."""
    fleck = strips.uniform("size", 0.012, 0.02)
    field = strips.field(0, 1.8 * fleck, fleck)
    cover = _threshold(strips.field(1, 0.1, 0.16), strips.uniform("reach", -1.0, 0.4), 3)
    dark = _threshold(field, strips.uniform("amount", 1.0, 1.6), 5)
    rim = np.roll(dark, max(1, round(0.03 * field.shape[1])), axis=1)
    relief: Array = (0.7 * rim - dark) * cover
    return relief


def _scratches(strips: _Strips) -> Array:
    """One to STROKES thin bright lines, three in four nearly along the rolling direction, some bent."""
    side = strips.spectra.shape[2]
    position = ((np.arange(side, dtype=np.float32) + 0.5) / side).astype(np.float32)
    x, y, angle, length, width, bend, strength = strips.strokes.transpose(2, 0, 1)[..., None, None]
    tilt = (angle - 0.5) * 0.5 + np.where(strips.draws["reach"] < 0.25, np.pi / 2, 0)[:, None, None, None]
    right, down = position - x, position[:, None] - y
    along = (np.cos(tilt) * down + np.sin(tilt) * right).astype(np.float32)
    away = np.cos(tilt) * right - np.sin(tilt) * down - (bend - 0.5) * np.square(along)
    ends = _threshold(0.1 + 0.4 * length, np.abs(along), 40)
    lines = np.exp(-np.square(away / (0.006 + 0.014 * np.square(width)))) * ends * (0.4 + 0.6 * strength)
    count = 1 + np.floor(strips.draws["amount"] * STROKES)
    lines *= (np.arange(STROKES) < count[:, None])[..., None, None]
    brightest: Array = lines.max(axis=1).astype(np.float32)
    return brightest


PAINTERS = (_crazing, _inclusion, _patches, _pitted_surface, _rolled_in_scale, _scratches)
# Contrast of the faintest and the strongest defect of each class, as a share of the surface's brightness.
SEVERITY = ((0.14, 0.5), (0.14, 0.55), (0.12, 0.75), (0.14, 0.5), (0.14, 0.5), (0.14, 0.9))


def _threshold(field: Array, level: Array, sharpness: float) -> Array:
    """1 where the field exceeds the level and 0 elsewhere, with a logistic edge."""
    step: Array = expit(sharpness * (field - level))
    return step


def _random_field(spectrum: npt.NDArray[np.complex64], across: float | Array, along: float | Array) -> Array:
    """N x H x W Gaussian random fields of mean 0 and standard deviation 1 from white N x H x W//2+1 spectra.

    `across` and `along` are the standard deviations of the smoothing Gaussian, whose transfer function is
    exp(-2 pi^2 sigma^2 k^2), with k in cycles per image side.
    """
    side = spectrum.shape[1]
    cycles = (np.fft.fftfreq(side) * side).astype(np.float32)
    smooth_y = np.exp(-2 * np.square(np.pi * along * cycles[:, None], dtype=np.float32))
    smooth_x = np.exp(-2 * np.square(np.pi * across * cycles[: spectrum.shape[2]], dtype=np.float32))
    field: Array = irfft2(spectrum * smooth_y * smooth_x, s=(side, side))
    field -= field.mean(axis=(1, 2), keepdims=True)
    field /= field.std(axis=(1, 2), keepdims=True)
    return field


def _strip_shown(repeated_N: npt.NDArray[np.bool_], blank_N: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Position in the block of the strip that each frame shows: a repeated one the latest that was seen before."""
    own = np.arange(len(repeated_N))
    latest = np.maximum.accumulate(np.where(repeated_N | blank_N, -1, own))
    return np.where(repeated_N & ~blank_N & (latest >= 0), latest, own).astype(np.int64)


def _photograph(
    surface_NHW: Array,
    draws: npt.NDArray[np.void],
    grain_NHW: Array,
    shown_N: npt.NDArray[np.int64],
    conditions: Conditions,
) -> npt.NDArray[np.uint8]:
    """Light the surface and read it out: uint8 N x H x W, clipped where the sensor saturates."""
    side = surface_NHW.shape[1]
    position = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    strip = draws[shown_N]
    again = shown_N != np.arange(len(draws))
    exposure = 1 + np.where(again, 0.08 * (draws["exposure"] - 0.5), 0)
    level = (0.42 + 0.2 * strip["level"]) * exposure
    tilt = 1 + 0.5 * (strip["tilt"][:, None] - 0.5) * position
    lamp = np.exp2(conditions.lighting * (1.2 + 1.4 * position))
    light_NHW: Array = surface_NHW * (level[:, None] * tilt)[:, :, None].astype(np.float32) * lamp.astype(np.float32)
    if conditions.blur:
        light_NHW = gaussian_filter(light_NHW, (0, *(2 * [0.03 * side * conditions.blur])))
    light_NHW += np.float32(0.015 + 0.08 * conditions.noise) * grain_NHW
    return _digitize(255 * light_NHW)


def _blank_frames(draws: npt.NDArray[np.void], grain_NHW: Array) -> npt.NDArray[np.uint8]:
    """Frames of a failed sensor: one grey level, read-out noise of half a level."""
    level = 5 + 245 * draws["level"][:, None, None]
    return _digitize(level + 0.5 * grain_NHW)


def _digitize(light: Array) -> npt.NDArray[np.uint8]:
    """Round to the 256 levels of the sensor."""
    return light.round().clip(0, 255).astype(np.uint8)


def _classes(uniform_N: Array, class_mix: Mapping[str, float] | None) -> npt.NDArray[np.int64]:
    """Class index of each uniform number, by inverting the cumulative class frequencies."""
    weights = np.ones(len(CLASSES)) if class_mix is None else np.array([class_mix.get(name, 0) for name in CLASSES])
    cumulative = np.cumsum(weights / weights.sum())
    cumulative[np.flatnonzero(weights)[-1] :] = np.inf
    return np.searchsorted(cumulative, uniform_N, side="right").astype(np.int64)


def _annotate(
    drawn_N: npt.NDArray[np.int64], draws: npt.NDArray[np.void], conditions: Conditions
) -> npt.NDArray[np.int64]:
    """The class an annotator wrote down: mostly the one drawn."""
    others = len(CLASSES) - 1
    mistaken = (drawn_N + 1 + (draws["wrong_label"] * others).astype(np.int64).clip(max=others - 1)) % len(CLASSES)
    return np.where(draws["relabelled"] < conditions.label_noise, mistaken, drawn_N)
