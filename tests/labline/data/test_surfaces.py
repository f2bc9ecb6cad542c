"""The synthetic steel strip: reproducible, lit and annotated as its conditions say, classes that can be told apart."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.data.surfaces import CLASSES, Conditions, load, render
from labline.errors import BadInput

SIZE = 32


def brightness(images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return np.asarray(images_NHWC.mean(axis=(1, 2, 3)))


def test_a_rendering_is_images_with_labels_and_stable_names() -> None:
    surfaces = render(100, 48, seed=0)
    assert surfaces.images.shape == (100, 48, 48, 1)
    assert surfaces.images.dtype == np.uint8
    assert surfaces.labels == surfaces.true_labels
    assert set(surfaces.labels) == set(CLASSES)
    assert len(set(surfaces.sample_ids)) == 100
    assert surfaces.sample_ids[17] == "surface-0-000017"
    assert not surfaces.blank.any()
    assert len({image.tobytes() for image in surfaces.images}) == 100


@settings(max_examples=10, deadline=None)
@given(start=st.integers(0, 200), samples=st.integers(1, 80), seed=st.integers(0, 2**32))
def test_a_part_is_the_same_as_in_the_whole(start: int, samples: int, seed: int) -> None:
    conditions = Conditions(lighting=0.3, label_noise=0.2, duplicates=0.2, blank=0.1)
    whole = render(start + samples, 16, seed, conditions)
    part = render(samples, 16, seed, conditions, start=start)
    np.testing.assert_array_equal(part.images, whole.images[start:])
    assert part.labels == whole.labels[start:]
    assert part.sample_ids == whole.sample_ids[start:]
    np.testing.assert_array_equal(part.strips, whole.strips[start:])
    np.testing.assert_array_equal(part.blank, whole.blank[start:])


def test_another_seed_is_another_strip() -> None:
    assert not np.array_equal(render(8, SIZE, seed=0).images, render(8, SIZE, seed=1).images)


@pytest.mark.parametrize("size", [16, 33, 64])
def test_brightness_does_not_depend_on_the_image_size(size: int) -> None:
    assert brightness(render(128, size, seed=0).images).mean() == pytest.approx(128, abs=6)


def test_lighting_moves_brightness_and_its_gradient_and_leaves_the_strips_as_they_were() -> None:
    dim, neutral, glaring = (render(64, SIZE, 0, Conditions(lighting=level)) for level in (-0.6, 0.0, 0.6))
    assert (brightness(dim.images) < brightness(neutral.images)).all()
    assert (brightness(neutral.images) < brightness(glaring.images)).all()
    right, left = glaring.images[:, :, SIZE // 2 :], glaring.images[:, :, : SIZE // 2]
    assert (brightness(right) - brightness(left)).mean() > 20
    assert dim.true_labels == neutral.true_labels == glaring.true_labels


def test_blur_smooths_and_noise_roughens() -> None:
    def roughness(conditions: Conditions) -> float:
        return float(np.abs(np.diff(render(64, SIZE, 0, conditions).images.astype(float), axis=1)).mean())

    assert roughness(Conditions(blur=0.8)) < 0.8 * roughness(Conditions())
    assert roughness(Conditions(noise=0.8)) > 2 * roughness(Conditions())


def test_class_mix_sets_relative_frequencies() -> None:
    counts = Counter(render(640, 16, 0, Conditions(class_mix={"scratches": 3, "patches": 1})).labels)
    assert set(counts) == {"scratches", "patches"}
    assert counts["scratches"] / 640 == pytest.approx(0.75, abs=0.06)


def test_label_noise_changes_labels_and_nothing_else() -> None:
    clean = render(640, 16, 0)
    noisy = render(640, 16, 0, Conditions(label_noise=0.1))
    wrong = [label != true for label, true in zip(noisy.labels, noisy.true_labels, strict=True)]
    assert np.mean(wrong) == pytest.approx(0.1, abs=0.04)
    assert noisy.true_labels == clean.true_labels
    np.testing.assert_array_equal(noisy.images, clean.images)
    assert set(render(64, 16, 0, Conditions(label_noise=1.0)).labels) == set(CLASSES)


def test_duplicates_show_an_earlier_strip_exactly_or_nearly() -> None:
    surfaces = render(1280, SIZE, 0, Conditions(duplicates=0.1))
    repeated = np.flatnonzero(surfaces.strips != np.arange(1280))
    assert len(repeated) / 1280 == pytest.approx(0.1, abs=0.03)
    copies = surfaces.images[repeated].astype(float)
    originals = surfaces.images[surfaces.strips[repeated]].astype(float)
    difference = np.abs(copies - originals).mean(axis=(1, 2, 3))
    assert np.mean(difference == 0) == pytest.approx(0.5, abs=0.15)
    assert difference.max() < 12
    assert all(surfaces.true_labels[i] == surfaces.true_labels[surfaces.strips[i]] for i in repeated)


def test_blank_frames_are_even_and_no_other_frame_is() -> None:
    surfaces = render(640, SIZE, 0, Conditions(blank=0.05, duplicates=0.1))
    assert surfaces.blank.mean() == pytest.approx(0.05, abs=0.03)
    deviation = surfaces.images.std(axis=(1, 2, 3))
    assert deviation[surfaces.blank].max() < 1
    assert deviation[~surfaces.blank].min() > 3
    assert not surfaces.blank[surfaces.strips[~surfaces.blank]].any()


def test_classes_can_be_told_apart_by_simple_statistics_but_not_perfectly() -> None:
    def texture(images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Percentiles of the difference between a pixel and its neighbours at three distances, along both axes."""
        light = np.log1p(images_NHWC[..., 0].astype(np.float32))
        steps = [np.roll(light, d, axis) + np.roll(light, -d, axis) - 2 * light for d in (1, 2, 4) for axis in (1, 2)]
        percentiles = [np.percentile(step, [1, 10, 90, 99], axis=(1, 2)) for step in steps]
        return np.asarray(np.log(np.abs(np.concatenate([*percentiles, np.full((1, len(light)), np.e)]))).T)

    train, test = render(600, 48, seed=0), render(300, 48, seed=1)
    one_hot = np.array([[label == name for name in CLASSES] for label in train.labels], float)
    weights = np.linalg.lstsq(texture(train.images), one_hot, rcond=None)[0]
    predicted = np.array(CLASSES)[(texture(test.images) @ weights).argmax(axis=1)]
    assert 0.6 < np.mean(predicted == np.array(test.labels)) < 0.95


def test_load_takes_samples_and_conditions_from_the_declaration() -> None:
    surfaces = load({"samples": 70, "lighting": 0.5, "class_mix": {"crazing": 1}}, image_size=16, seed=3)
    expected = render(70, 16, 3, Conditions(lighting=0.5, class_mix={"crazing": 1}))
    np.testing.assert_array_equal(surfaces.images, expected.images)
    assert set(surfaces.labels) == {"crazing"}
    assert len(load({}, image_size=16, seed=0).labels) == 4000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lightning": 0.5}, "unknown option 'lightning'.*did you mean 'lighting'"),
        ({"lighting": 1.5}, "lighting must be a number from -1 to 1, not 1.5"),
        ({"blur": -0.1}, "blur must be a number from 0 to 1, not -0.1"),
        ({"noise": float("nan")}, "noise must be a number from 0 to 1, not nan"),
        ({"duplicates": "many"}, "duplicates must be a number from 0 to 1, not 'many'"),
        ({"blank": True}, "blank must be a number from 0 to 1, not True"),
        ({"class_mix": {"scratch": 1}}, "unknown class 'scratch'.*did you mean 'scratches'"),
        ({"class_mix": {"scratches": -1}}, "class_mix of 'scratches' must be a number from 0 up"),
        ({"class_mix": {}}, "at least one class"),
        ({"class_mix": "even"}, "class_mix must map class names"),
        ({"samples": 0}, "samples must be a whole number, 1 or more, not 0"),
        ({"samples": 10.5}, "samples must be a whole number"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load(options, image_size=16, seed=0)


@pytest.mark.parametrize(("image_size", "seed", "name"), [(8, 0, "image_size"), (16, -1, "seed")])
def test_sizes_and_seeds_that_make_no_sense_are_refused(image_size: int, seed: int, name: str) -> None:
    with pytest.raises(BadInput, match=name):
        render(1, image_size, seed)
