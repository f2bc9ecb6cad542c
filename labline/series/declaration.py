"""What a declaration may say of a time series: where it comes from, how it is cleaned, what is forecast from what."""

from __future__ import annotations

import zoneinfo
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from labline.errors import BadInput, nearest
from labline.series.expressions import columns, columns_under_logarithm, history, parse

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Target = Literal["realized-volatility", "value", "direction"]
Duplicates = Literal["first", "last", "quarantine"]
Head = Literal["gaussian", "quantile", "point", "classes"]


class Section(BaseModel):
    """A part of the declaration: strict keys, never changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SeriesSplit(Section):
    """Train, then validation, then test, in the order of time: by the last days of the first two, or by shares."""

    train_until: date | None = Field(None, description="last day of training, in data.time_zone")
    validation_until: date | None = Field(None, description="last day of validation; what follows is test")
    train: Fraction = Field(0.7, description="share of the timestamps, where no days are declared")
    validation: Fraction = 0.15
    embargo: int | None = Field(
        None, ge=0, description="rows left out at the end of train and of validation; default: window + horizon"
    )

    @model_validator(mode="after")
    def _leaves_three_parts(self) -> SeriesSplit:
        if (self.train_until is None) != (self.validation_until is None):
            raise ValueError("train_until and validation_until go together: declare both or none")
        if self.train_until and self.validation_until and self.train_until >= self.validation_until:
            raise ValueError(f"train_until must lie before validation_until, which is {self.validation_until}")
        if min(self.train, self.validation) <= 0 or self.train + self.validation >= 1:
            raise ValueError("train and validation must be above 0 and leave a share for test")
        return self


class SeriesData(Section):
    """Where the rows come from: one a timestamp, or one a timestamp and entity.

    Names of columns are compared and kept in lower case, with "_" for whatever is no letter or digit: "Adj Close"
    is adj_close.
    """

    source: str = Field(description="sp500 | nasdaq | csv | parquet | module:function")
    path: str | None = Field(None, description="the file; ${VARIABLES} are expanded")
    timestamp: str = Field("date", description="column of ISO 8601 dates or times")
    timestamp_format: str | None = Field(None, description='where it is not ISO 8601, such as "%d/%m/%Y"')
    time_zone: str = Field("UTC", description="of timestamps that name none")
    values: list[str] | None = Field(None, min_length=1, description="columns of numbers; default: all there are")
    entity: str | None = Field(None, description="column telling several series of one file apart")
    split: SeriesSplit = SeriesSplit()
    options: dict[str, Any] = Field(default_factory=dict, description="read by the user's own module:function")
    max_rejected: Fraction = Field(0.2, description="a larger share of unusable rows stops the flow")

    @field_validator("time_zone")
    @classmethod
    def _is_a_time_zone(cls, name: str) -> str:
        known = zoneinfo.available_timezones()
        if name not in known:
            close = nearest(name, known)
            hint = close if close.startswith("did you") else 'expected a name such as "America/New_York"'
            raise ValueError(f"{name!r} is no time zone; {hint}")
        return name


class SeriesCleaning(Section):
    """What happens to gaps, outliers and duplicates. No policy looks ahead: a row is judged by itself and its past."""

    duplicates: Duplicates = Field(
        "quarantine", description="of several rows of one entity and time, in the order of the file, which one stays"
    )
    gaps: Literal["keep", "drop", "forward-fill"] = Field(
        "drop",
        description="missing values stay and no window holds them | their rows leave | they take the last one known",
    )
    longest_gap: int = Field(
        7, ge=1, description="missing rows that are filled, or (not with keep) bridged by windows and returns"
    )
    outliers: Literal["keep", "quarantine", "clip"] = "keep"
    outlier_limit: float = Field(20.0, gt=0, description="robust standard deviations from the trailing median")
    outlier_window: int = Field(20, ge=5, le=10_000, description="rows before it that judge a row")


class Features(Section):
    """What the network sees, and what it shall forecast."""

    inputs: list[str] = Field(min_length=1, description="expressions of labline.series.expressions")
    window: int = Field(20, ge=1, le=10_000, description="rows of one sample, the last one the present")
    target: Target = "realized-volatility"
    horizon: int = Field(5, ge=1, le=10_000, description="rows ahead, strictly after the present")
    price: str = Field("close", description="the column that the target is made of")

    @field_validator("inputs")
    @classmethod
    def _are_different_expressions(cls, inputs: list[str]) -> list[str]:
        try:
            parsed = [str(parse(text)) for text in inputs]
        except BadInput as error:
            raise ValueError(str(error)) from None
        for text in parsed:
            if parsed.count(text) > 1:
                raise ValueError(f"{text!r} is declared twice; once is enough")
        return parsed

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that inputs and target read, sorted."""
        read = [columns(parse(text)) for text in self.inputs]
        return tuple(sorted({self.price}.union(*read)))

    @property
    def positive_columns(self) -> tuple[str, ...]:
        """Those of them that stand under a logarithm, sorted."""
        logged = [columns_under_logarithm(parse(text)) for text in self.inputs]
        own = {self.price} if self.target == "realized-volatility" else set()
        return tuple(sorted(own.union(*logged)))

    @property
    def rows_needed(self) -> int:
        """How many rows, the present one the last, one forecast needs."""
        return self.window + max(history(parse(text)) for text in self.inputs)


class Network(Section):
    """The forecaster: a shipped architecture or the user's own `module:Class`, and what it says of the target."""

    architecture: str = Field("lstm", description="lstm | gru | rnn | transformer | tcn | module:Class")
    width: float = Field(1.0, gt=0, le=8, description="multiplies the channels of every layer")
    depth: int = Field(1, ge=1, le=8, description="layers")
    head: Head = "gaussian"
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99], min_length=1, description="levels of head = quantile, rising"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="passed to the constructor")

    @field_validator("quantiles")
    @classmethod
    def _rise(cls, levels: list[float]) -> list[float]:
        if levels != sorted(set(levels)):
            raise ValueError("quantiles must rise, none of them twice")
        return levels


def embargo_rows(split: SeriesSplit, features: Features) -> int:
    """Rows left out between splits. Raises BadInput where training targets would reach into validation."""
    if split.embargo is None:
        return features.window + features.horizon
    if split.embargo < features.horizon:
        raise BadInput(
            f"data.split.embargo = {split.embargo} lets targets of one split reach into the next; expected at least "
            f"features.horizon = {features.horizon}: raise it, or leave it out for window + horizon"
        )
    return split.embargo
