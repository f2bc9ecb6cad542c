"""The space of a search: from what is declared, or is sane to try, to settings that the declaration itself accepts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from labline.declaration import explain
from labline.errors import BadInput
from labline.series.usecase import SeriesUseCase
from labline.tuning.declaration import Dimension, check_space, is_whole
from labline.usecase import UseCase

Space = Mapping[str, Dimension]

SIGNIFICANT_DIGITS = 4  # of a proposed number: what a person would write
SHIPPED_FORECASTERS = ["rnn", "gru", "lstm", "transformer", "tcn"]


def space_of(declaration: UseCase) -> dict[str, Dimension]:
    """The declared space, or the default one; raises BadInput where the declaration itself lies outside of it."""
    space = dict(declaration.tuning.space) or default_space(declaration)
    for key, dimension in space.items():
        _check_inside(key, value_of(declaration, key), dimension)
    return space


def default_space(declaration: UseCase) -> dict[str, Dimension]:
    """What is worth trying where no space is declared: around the declaration, what matters most and costs little."""
    declared: Any = declaration
    training, model = declared.training, declared.model
    space = {
        "training.learning_rate": _around(training.learning_rate, 5),
        "training.batch_size": Dimension(choices=sorted({max(1, training.batch_size // 2), training.batch_size * 2,
                                                         training.batch_size})),
        "model.width": Dimension(low=model.width / 2, high=min(8.0, model.width * 2), log=True),
    }  # fmt: skip
    if training.weight_decay > 0:
        space["training.weight_decay"] = _around(training.weight_decay, 10)
    if declared.augmentation.policy:
        space["augmentation.strength"] = Dimension(low=0.0, high=1.0)
    if isinstance(declaration, SeriesUseCase):
        window = declaration.features.window
        space["features.window"] = Dimension(low=max(1, window // 2), high=window * 2, log=True)
        if model.architecture in SHIPPED_FORECASTERS:
            space["model.architecture"] = Dimension(choices=SHIPPED_FORECASTERS)
    else:
        space["training.label_smoothing"] = Dimension(low=0.0, high=max(0.2, training.label_smoothing))
    check_space(space, type(declaration))
    return space


def distributions(space: Space, kind: type[UseCase]) -> dict[str, BaseDistribution]:
    """The space as Optuna draws from it; choices that are no scalars go by their JSON."""
    return {key: _distribution(key, dimension, kind) for key, dimension in space.items()}


def point_of(declaration: UseCase, space: Space) -> dict[str, Any]:
    """Where the declaration itself stands in the space, as Optuna's parameters."""
    return {key: _encoded(value_of(declaration, key)) for key in space}


def settings_of(parameters: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Optuna's parameters as settings: numbers with four significant digits, within their bounds."""
    return {key: _decoded(parameters[key], dimension) for key, dimension in space.items()}


def apply(declaration: UseCase, settings: Mapping[str, Any]) -> UseCase:
    """The declaration with other settings, checked as any declaration is; raises BadInput for what cannot be."""
    declared = declaration.model_dump(mode="json")
    for key, value in settings.items():
        *sections, name = key.split(".")
        section = declared
        for part in sections:
            section = section[part]
        section[name] = value
    try:
        return type(declaration).model_validate(declared)
    except ValidationError as error:
        spelled = ", ".join(f"{key} = {value!r}" for key, value in settings.items())
        raise BadInput(explain(error, f"the trial {spelled}", type(declaration))) from None


def value_of(declaration: UseCase, key: str) -> Any:
    """What the declaration says of `section.key`; None for a free key that it does not have."""
    value: Any = declaration.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _around(value: float, factor: float) -> Dimension:
    """Evenly in the logarithm, from a part of the value to as many times of it."""
    return Dimension(low=float(f"{value / factor:.4g}"), high=float(f"{value * factor:.4g}"), log=True)


def _check_inside(key: str, value: Any, dimension: Dimension) -> None:
    if dimension.choices is not None:
        if value not in dimension.choices:
            raise BadInput(
                f"tuning.space.{key}: the declaration says {value!r}, none of the choices {dimension.choices}; "
                "the search begins with the declaration: add it"
            )
        return
    assert dimension.low is not None and dimension.high is not None
    if not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
        raise BadInput(
            f"tuning.space.{key}: the declaration says {value!r}, outside of {dimension.low:g} to {dimension.high:g}; "
            "the search begins with the declaration: widen the space, or declare a value inside"
        )
    if dimension.step is not None:
        steps = (value - dimension.low) / dimension.step
        if abs(steps - round(steps)) > 1e-6:
            raise BadInput(
                f"tuning.space.{key}: the declaration says {value!r}, which is no whole number of steps of "
                f"{dimension.step:g} above {dimension.low:g}; the search begins with the declaration: move low"
            )


def _distribution(key: str, dimension: Dimension, kind: type[UseCase]) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution([_encoded(choice) for choice in dimension.choices])
    low, high, step = dimension.low, dimension.high, dimension.step
    assert low is not None and high is not None
    if is_whole(key, dimension, kind):
        whole = int(step or 1)
        return IntDistribution(int(low), _last_step(int(low), int(high), whole), log=dimension.log, step=whole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # high is no whole number of steps above low: the last one counts
        return FloatDistribution(float(low), float(high), log=dimension.log, step=step)


def _last_step(low: int, high: int, step: int) -> int:
    return low + (high - low) // step * step


def _encoded(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _decoded(parameter: Any, dimension: Dimension) -> Any:
    if dimension.choices is not None:
        return next(choice for choice in dimension.choices if _encoded(choice) == parameter)
    if isinstance(parameter, int):
        return parameter
    assert dimension.low is not None and dimension.high is not None
    rounded = float(f"{parameter:.{SIGNIFICANT_DIGITS}g}")
    return min(max(rounded, float(dimension.low)), float(dimension.high))
