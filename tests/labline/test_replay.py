"""What a service is asked and later told."""

from __future__ import annotations

import io
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from labline.data import surfaces
from labline.drifting import Drift
from labline.errors import BadInput
from labline.replay import BLOCK, Labelling, Sample, held_out, rendered
from labline.usecase import Data

DATA = Data(source="surfaces", image_size=16, channels=1, options={"samples": 100, "label_noise": 0.5, "blank": 0.5})
LABELS = ["dark"] * 30 + ["bright"] * 10
NAMES = [f"{n:02}.png" for n in range(40)]
IMAGES = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)


def brightness(samples: list[Sample]) -> float:
    return float(np.mean([np.frombuffer(sample.body, np.uint8).mean() for sample in samples]))


def test_rendered_strips_are_new_and_the_same_for_the_same_seed() -> None:
    first, again, other = (list(islice(rendered(DATA, Drift(), seed), 40)) for seed in (0, 0, 1))
    assert first == again
    assert first[0].name == f"surface-0-{128:06d}", "the first whole block after those that were trained on"
    names = {sample.name for sample in first} | {sample.name for sample in other}
    assert len(names) == 80, "no strip is shown twice"
    shown = surfaces.render(40, 16, 0, start=128)
    assert [sample.truth for sample in first] == shown.true_labels, "planted mistakes are left out"
    assert first[39].body == shown.images[39].tobytes()


def test_rendered_strips_drift_little_by_little() -> None:
    samples = list(islice(rendered(DATA, Drift({"lighting": 0.8}, ramp=4 * BLOCK), 0), 6 * BLOCK))
    blocks = [brightness(samples[at : at + BLOCK]) for at in range(0, len(samples), BLOCK)]
    assert blocks[0] < blocks[2] < blocks[4]
    mixed = list(islice(rendered(DATA, Drift(mix={"scratches": 0.9}), 0), 320))
    assert 0.8 < sum(sample.truth == "scratches" for sample in mixed) / 320 < 0.97
    with pytest.raises(BadInput, match="lighting must be a number from -1 to 1"):
        rendered(DATA, Drift({"lighting": 3.0}), 0)


def test_held_out_images_come_once_each_before_any_comes_again() -> None:
    samples = list(islice(held_out(IMAGES, LABELS, NAMES, Drift(), seed=0), 80))
    assert sorted(sample.name for sample in samples[:40]) == NAMES
    assert Counter(sample.name for sample in samples) == dict.fromkeys(NAMES, 2)
    for sample in samples:
        row = NAMES.index(sample.name)
        assert (sample.body, sample.truth) == (IMAGES[row].tobytes(), LABELS[row])


def test_held_out_images_can_be_mixed_and_sent_as_png() -> None:
    drift = Drift(mix={"bright": 0.8})
    samples = list(islice(held_out(IMAGES, LABELS, NAMES, drift, seed=0, form="png"), 320))
    assert 0.7 < sum(sample.truth == "bright" for sample in samples) / 320 < 0.9
    decoded = np.asarray(Image.open(io.BytesIO(samples[0].body)))
    assert np.array_equal(decoded, IMAGES[NAMES.index(samples[0].name), ..., 0])
    with pytest.raises(BadInput, match="no image of 'grey'"):
        next(held_out(IMAGES, LABELS, NAMES, Drift(mix={"grey": 0.5}), seed=0))


def test_labels_come_for_a_share_and_some_lie() -> None:
    generator = np.random.default_rng(0)
    labelling = Labelling(share=0.5, wrong=0.2)
    labels = [labelling.label("dark", ("dark", "bright", "grey"), generator) for _ in range(4000)]
    told = [label for label in labels if label is not None]
    assert 0.45 < len(told) / 4000 < 0.55
    assert 0.15 < sum(label != "dark" for label in told) / len(told) < 0.25
    assert {label for label in told if label != "dark"} == {"bright", "grey"}
    assert Labelling().label(None, (), generator) is None
    assert Labelling(wrong=0.5).label(0.25, (), generator) == 0.25
