"""Smaller networks: the list of sizes is halved, since each size costs a training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from labline.compression.candidates import Tried
from labline.compression.conditions import Conditions
from labline.compression.smaller import smaller_versions
from labline.models import ImageClassifier, build
from labline.usecase import Compression

Prepared = Callable[[Compression], tuple[Conditions, Tried]]
SIZES = {"large": 0.75, "medium": 0.5, "small": 0.25}


@pytest.mark.parametrize(
    ("smallest_that_works", "trained_names", "notes"),
    [
        (0.25, ["medium", "small"], {"large": "not tried: medium is smaller and fits"}),
        (0.75, ["medium", "large"], {"small": "not tried: medium is larger and loses too much"}),
    ],
)
def test_half_of_the_sizes_are_ruled_out_by_each_that_is_tried(
    smallest_that_works: float,
    trained_names: list[str],
    notes: dict[str, str],
    trained: ImageClassifier,
    conditions: Prepared,
) -> None:
    shared, _ = conditions(Compression(passes=["prune"], max_metric_drop=0.05))
    seen = []

    def train(share: float, name: str) -> ImageClassifier:
        seen.append(name)
        untrained = ImageClassifier(build("cnn", 1, 3, 16, width=0.25), torch.zeros(1), torch.ones(1))
        return trained if share >= smallest_that_works else untrained

    tried = smaller_versions(SIZES, train, shared)

    assert seen == trained_names
    assert {candidate.name: candidate.note for candidate in tried if candidate.path is None} == notes


def test_what_loses_too_much_in_float32_is_not_quantized(trained: ImageClassifier, conditions: Prepared) -> None:
    shared, _ = conditions(Compression(max_metric_drop=0.05))
    untrained = ImageClassifier(build("cnn", 1, 3, 16, width=0.25), torch.zeros(1), torch.ones(1))

    (lost,) = smaller_versions({"lost": 0.5}, lambda *_: untrained, shared)
    kept = smaller_versions({"kept": 0.5}, lambda *_: trained, shared)

    assert not shared.fits(lost)
    assert [candidate.name for candidate in kept] == ["kept", "kept+int8"]
    assert (shared.directory / "kept.safetensors").is_file()
    assert not (shared.directory / "lost.safetensors").exists()
