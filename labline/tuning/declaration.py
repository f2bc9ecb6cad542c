"""What `[tuning]` may say: which settings are searched between which bounds, for how long, and what ends a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from labline.errors import nearest

Scalar = bool | int | float | str
Goal = Literal["metric", "latency"]

# What decides which samples are judged, or by which measure: figures of two trials could not be compared.
FIXED = {
    "training.seed": "its trials differ by luck alone",
    "training.select": "it is the measure of the search",
    "training.device": "it says where, not what is trained",
    "training.precision": "it is chosen by measuring, or declared",
    "model.head": "it decides what is measured",
    "model.quantiles": "they decide what is measured",
    "model.start_from": "it belongs to retraining",
}
SECTIONS = ("model", "augmentation", "training")
SINGLE_KEYS = ("features.window",)  # of sections that otherwise decide what is judged


class Dimension(BaseModel):
    """What one setting may be: between `low` and `high`, both included, or one of `choices`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: int | float | None = None
    high: int | float | None = None
    log: bool = Field(False, description="even steps of the logarithm: for what spans magnitudes")
    step: int | float | None = Field(None, gt=0, description="only low, low + step, low + 2 steps, …")
    choices: list[Any] | None = Field(None, min_length=2)

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> Dimension:
        if self.choices is not None:
            if (self.low, self.high, self.step, self.log) != (None, None, None, False):
                raise ValueError("expected either choices or low and high, not both")
            if any(self.choices.count(choice) > 1 for choice in self.choices):
                raise ValueError("a choice is declared twice; once is enough")
            return self
        if self.low is None or self.high is None:
            raise ValueError("expected low and high, such as { low = 1e-4, high = 1e-2, log = true }, or choices = […]")
        if self.low >= self.high:
            raise ValueError(f"low must be below high, not {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log = true needs low above 0, not {self.low:g}")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step must be at most high - low, {self.high - self.low:g}, not {self.step:g}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        return self


class Tuning(BaseModel):
    """How `labline tune` searches; an empty space is the default one of images or series."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(20, ge=1, description="settings that are tried in all, the declaration itself the first")
    timeout_minutes: float | None = Field(None, gt=0, description="no trial goes on after so long")
    pruner: Literal["median", "hyperband", "none"] = Field("median", description="what ends a trial that lags behind")
    objectives: list[Goal] = Field(["metric"], description="training.select on validation; latency: of fp32 ONNX")
    seed: int = Field(0, ge=0, description="the same one, the same trials")
    space: dict[str, Dimension] = Field(default_factory=dict, description="section.key: what it may be")

    @model_validator(mode="before")
    @classmethod
    def _keys_may_be_bare(cls, declared: Any) -> Any:
        """Without quotes TOML reads training.learning_rate as a table in a table."""
        if not isinstance(declared, dict) or not isinstance(declared.get("space"), dict):
            return declared
        return declared | {"space": dict(_flat(declared["space"]))}

    @model_validator(mode="after")
    def _has_the_metric(self) -> Tuning:
        if self.objectives not in (["metric"], ["metric", "latency"], ["latency", "metric"]):
            raise ValueError('objectives must be ["metric"] or ["metric", "latency"]')
        return self


def check_space(space: Mapping[str, Dimension], kind: type[BaseModel]) -> None:
    """Raise ValueError where a key is no setting of this kind of application, or cannot be what the space says."""
    for key, dimension in space.items():
        field = setting(key, kind)
        if field is not None:
            _check_dimension(key, dimension, field)


def setting(key: str, kind: type[BaseModel]) -> FieldInfo | None:
    """The field that a key `section.key` names; None for what stands in a table of free keys, such as model.options.

    Raises ValueError for one that does not exist, with the nearest that does, or that may not vary, with the reason.
    """
    valid = list(settings(kind))
    if key in FIXED:
        raise ValueError(f"tuning.space.{key} cannot be searched: {FIXED[key]}")
    table = next((name for name in valid if key.startswith(name + ".")), None)
    if key not in valid and (table is None or not table.endswith(".options")):
        head = key.partition(".")[0]
        if head in kind.model_fields and head not in {name.partition(".")[0] for name in valid}:
            raise ValueError(
                f"tuning.space.{key} cannot be searched: [{head}] decides what is judged, or is not part of training; "
                f"searched are settings of {', '.join(SECTIONS)}"
            )
        raise ValueError(f"tuning.space.{key}: no such setting; {nearest(key, valid)}")
    return None if table else _field(key, kind)


def settings(kind: type[BaseModel]) -> Iterator[str]:
    """Every `section.key` that can be searched in this kind of application."""
    for section in SECTIONS:
        if section in kind.model_fields:
            for name in _section(section, kind).model_fields:
                if f"{section}.{name}" not in FIXED:
                    yield f"{section}.{name}"
    for key in SINGLE_KEYS:
        if key.partition(".")[0] in kind.model_fields:
            yield key


def is_whole(key: str, dimension: Dimension, kind: type[BaseModel]) -> bool:
    """Whether a range is one of whole numbers: by the type of its field or, where that is free, by its ends."""
    field = setting(key, kind)
    if field is not None:
        return float not in _types(field)
    return all(isinstance(end, int) for end in (dimension.low, dimension.high, dimension.step or 1))


def _field(key: str, kind: type[BaseModel]) -> FieldInfo:
    section, _, name = key.partition(".")
    return _section(section, kind).model_fields[name]


def _section(name: str, kind: type[BaseModel]) -> type[BaseModel]:
    annotation = kind.model_fields[name].annotation
    assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation


def _types(field: FieldInfo) -> tuple[Any, ...]:
    return get_args(field.annotation) or (field.annotation,)


def _check_dimension(key: str, dimension: Dimension, field: FieldInfo) -> None:
    values = dimension.choices
    if values is None:
        types = set(_types(field))
        values = [dimension.low, dimension.high]
        if not {int, float} & types:
            raise ValueError(f"tuning.space.{key} is no number: expected choices = […]")
        fractions = [end for end in (*values, dimension.step) if isinstance(end, float) and not end.is_integer()]
        if float not in types and fractions:
            raise ValueError(f"tuning.space.{key} takes whole numbers, not {fractions[0]:g}")
    for value in values:
        _check_value(key, value, field)


def _check_value(key: str, value: Any, field: FieldInfo) -> None:
    try:
        TypeAdapter(Annotated[field.annotation, field]).validate_python(value)  # type: ignore[arg-type]  # made here
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"tuning.space.{key}: {message}, not {value!r}") from None


def _flat(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in space.items():
        if isinstance(value, dict) and value and not value.keys() & Dimension.model_fields.keys():
            inner = value.values()
            if all(isinstance(each, dict) for each in inner):
                yield from _flat(value, f"{prefix}{name}.")
                continue
        yield f"{prefix}{name}", value
