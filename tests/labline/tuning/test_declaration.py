"""`[tuning]` as somebody who declares it would try it: what it takes, and what it says of a mistake."""

from __future__ import annotations

import tomllib
from collections.abc import Callable

import pytest

from labline.declaration import as_toml
from labline.errors import BadInput
from labline.series.usecase import SeriesUseCase
from labline.tuning.declaration import Dimension, settings
from labline.usecase import ImageUseCase, UseCase

RATE = "tuning.space.training.learning_rate"
Declared = Callable[..., UseCase]


def test_a_key_of_the_space_may_be_bare_or_quoted(declared: Declared) -> None:
    bare = declared("steel", f"{RATE}={{low=1e-4, high=1e-2, log=true}}")
    quoted = declared("steel", 'tuning={space={"training.learning_rate"={low=1e-4, high=1e-2, log=true}}}')
    assert bare.tuning == quoted.tuning
    assert bare.tuning.space == {"training.learning_rate": Dimension(low=1e-4, high=1e-2, log=True)}


def test_a_space_survives_being_written_down(declared: Declared) -> None:
    declaration = declared(
        "steel", f"{RATE}={{low=1e-4, high=1e-2}}", 'tuning.space.model.options.x={choices=["a", "b"]}'
    )
    assert ImageUseCase.model_validate(tomllib.loads(as_toml(declaration))) == declaration


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("tuning.space.training.learnin_rate={low=1e-4, high=1e-2}", "did you mean 'training.learning_rate'"),
        ("tuning.space.trainin.learning_rate={low=1e-4, high=1e-2}", "did you mean 'training.learning_rate'"),
        (f"{RATE}={{low=0, high=1e-2}}", "greater than 0, not 0"),
        (f"{RATE}={{low=1e-2, high=1e-4}}", "low must be below high"),
        (f"{RATE}={{low=1e-4}}", "expected low and high"),
        (f"{RATE}={{low=1e-4, high=1e-2, choices=[1e-3, 2e-3]}}", "not both"),
        (f"{RATE}={{low=1e-4, high=1e-2, log=true, step=1e-3}}", "log and step exclude each other"),
        ("tuning.space.training.batch_size={low=16.5, high=64}", "takes whole numbers, not 16.5"),
        ('tuning.space.training.optimizer={choices=["sgd", "adamx"]}', "Input should be .*, not 'adamx'"),
        ("tuning.space.training.optimizer={low=1, high=2}", "is no number: expected choices"),
        ("tuning.space.training.seed={low=0, high=9}", "differ by luck alone"),
        ("tuning.space.data.image_size={low=32, high=64}", r"\[data\] decides what is judged"),
        ('tuning.objectives=["latency"]', "objectives must be"),
        ('tuning.pruner="medain"', "did you mean 'median'"),
    ],
)
def test_a_mistake_is_named_with_what_was_expected(declared: Declared, assignment: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        declared("steel", assignment)


def test_images_and_series_have_settings_of_their_own() -> None:
    images, series = set(settings(ImageUseCase)), set(settings(SeriesUseCase))
    assert "features.window" in series - images
    assert {"training.learning_rate", "model.width", "model.architecture", "augmentation.strength"} <= images & series
    assert not {"training.seed", "training.select", "model.head"} & (images | series)
