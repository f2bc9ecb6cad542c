"""Smaller networks: pruned ones that are fine-tuned, and narrower ones taught from scratch, each with its INT8 version.

Networks of one kind are tried as a binary search does: where one fits the budget, only smaller ones can still win, and
where one loses too much, smaller ones lose more. Each costs a training; so the list is halved rather than gone through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from labline.compression.candidates import Tried, attempt
from labline.compression.conditions import Conditions
from labline.compression.int8 import int8_versions
from labline.export.onnx import export_onnx
from labline.models.classifier import ImageClassifier
from labline.models.weights import save_weights

WEIGHTS = ".safetensors"
Train = Callable[[float, str], ImageClassifier]


def smaller_versions(sizes: Mapping[str, float], train: Train, conditions: Conditions) -> list[Tried]:
    """The candidates tried of one kind, and in their place in the table those that were not, with the reason.

    `sizes` has the share (0 to 1) of all channels that each network has, by its name; `train` makes one from both. The
    weights of those that fit lie beside their ONNX file, as `<name>.safetensors`.
    """
    left = sorted(sizes, key=lambda name: -sizes[name])
    tried: list[Tried] = []
    while left:
        middle = len(left) // 2
        name, larger, smaller = left[middle], left[:middle], left[middle + 1 :]
        late = conditions.in_time(name)
        if late is not None:
            return tried + [Tried(skipped, note=late.note) for skipped in left]
        versions = _versions(name, sizes[name], train, conditions)
        tried += versions
        if versions[0].path is None:  # this architecture cannot be treated so, to whatever size
            return tried
        fits = conditions.fits(versions[-1])
        left, others = (smaller, larger) if fits else (larger, smaller)
        why = f"not tried: {name} {'is smaller and fits' if fits else 'is larger and loses too much'}"
        tried += [Tried(skipped, note=why) for skipped in others]
    return tried


def _versions(name: str, share: float, train: Train, conditions: Conditions) -> list[Tried]:
    """One network as float32 file, and in INT8 where that is declared and the float32 file does not lose too much."""
    networks: list[ImageClassifier] = []

    def build(path: Path) -> Path:
        networks.append(train(share, name))
        return export_onnx(networks[0], path, conditions.image_size, conditions.channels)

    float32 = attempt(name, conditions.directory, build, conditions.judged)
    if not conditions.fits(float32):
        return [float32]
    save_weights(networks[0], conditions.directory / f"{name}{WEIGHTS}")
    if "int8-static" not in conditions.settings.passes:
        return [float32]
    return [float32, *int8_versions(float32, networks[0], conditions)]
