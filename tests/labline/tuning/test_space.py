"""Spaces: every point of them is a declaration that can be trained, the first one as it was declared."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.declaration import load_usecase
from labline.errors import BadInput
from labline.tuning.declaration import Dimension
from labline.tuning.space import apply, default_space, distributions, point_of, settings_of, space_of, value_of
from labline.usecase import UseCase
from tests.labline.tuning.conftest import USECASES

SHIPPED = ["surface", "steel", "pneumonia", "cifar10", "volatility"]
Declared = Callable[..., UseCase]


def ranged(low: float, width: float, step: float | None, log: bool) -> Dimension:
    return Dimension(low=low, high=low + max(width, 2 * (step or 0)), step=step, log=log and step is None)


def numbers(whole: bool) -> st.SearchStrategy[Dimension]:
    """Ranges for training.batch_size (whole) or training.learning_rate."""
    smallest = st.integers(1, 50) if whole else st.floats(1e-6, 1e-2)

    def up_to(low: float) -> st.SearchStrategy[Dimension]:
        width = st.integers(1, 100) if whole else st.floats(1e-6, 1.0)
        step = st.none() | (st.integers(1, 9) if whole else st.floats(1e-3, 1e-1))
        return st.builds(lambda width, step, log: ranged(low, width, step, log), width, step, st.booleans())

    return smallest.flatmap(up_to)


@settings(max_examples=60)
@given(rate=numbers(whole=False), batch=numbers(whole=True), seed=st.integers(0, 1000))
def test_what_is_drawn_lies_within_its_bounds_and_can_be_declared(rate: Dimension, batch: Dimension, seed: int) -> None:
    declaration = load_usecase("surface", USECASES)
    space = {
        "training.learning_rate": rate,
        "training.batch_size": batch,
        "augmentation.policy": Dimension(choices=[[], ["flip"], ["flip", "noise"]]),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    drawn = settings_of(study.ask(distributions(space, type(declaration))).params, space)
    tried = apply(declaration, drawn)
    for key, dimension in space.items():
        assert value_of(tried, key) == drawn[key]
        if dimension.choices is not None:
            assert drawn[key] in dimension.choices
        else:
            assert dimension.low is not None and dimension.high is not None
            assert dimension.low <= drawn[key] <= dimension.high
    assert isinstance(drawn["training.batch_size"], int)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_declaration_has_a_default_space_around_itself(declared: Declared, name: str) -> None:
    declaration = declared(name)
    space = space_of(declaration)
    drawn = distributions(space, type(declaration))
    assert point_of(declaration, space).keys() == drawn.keys()
    assert apply(declaration, {key: value_of(declaration, key) for key in space}) == declaration


def test_a_series_searches_its_window_too(declared: Declared) -> None:
    assert default_space(declared("volatility"))["features.window"] == Dimension(low=10, high=40, log=True)
    assert "features.window" not in default_space(declared("steel"))


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("training.learning_rate={low=1e-1, high=1}", "0.003, outside of 0.1 to 1; .* widen the space"),
        ('model.architecture={choices=["resnet", "mynet:Net"]}', "'cnn', none of the choices .* add it"),
        ("training.batch_size={low=10, high=100, step=20}", "64, which is no whole number of steps of 20 above 10"),
    ],
)
def test_the_declaration_must_lie_in_its_own_space(declared: Declared, space: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        space_of(declared("steel", f"tuning.space.{space}"))


def test_settings_that_only_together_cannot_be_are_refused_by_the_declaration(declared: Declared) -> None:
    with pytest.raises(BadInput, match="the trial training.epochs = 0 cannot be used"):
        apply(declared("steel"), {"training.epochs": 0})
