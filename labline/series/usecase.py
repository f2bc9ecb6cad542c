"""An application that forecasts a time series: what `usecases/<name>.toml` may say where modality = "series"."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from labline.errors import nearest
from labline.series.declaration import Features, Fraction, Network, Section, SeriesCleaning, SeriesData
from labline.usecase import Compression, Cost, Expectations, Export, Promotion, Training, UseCase

SeriesTransform = Literal["jitter", "scaling", "slicing", "mixup"]
SeriesMetric = Literal["qlike", "mse", "pinball", "log_score", "accuracy", "balanced_accuracy", "macro_f1", "roc_auc"]
# What a gate can name: losses and coverage on the test split, and how sure a Diebold–Mariano test is (a p-value).
SeriesFigure = Literal[
    SeriesMetric, Cost, "p_worse_than_har", "p_better_than_garch", "p_better_than_ewma", "kupiec_p", "christoffersen_p"
]


class SeriesAugmentation(Section):
    """Which random transforms training windows pass through, and how strongly."""

    policy: list[SeriesTransform] = Field(default_factory=list)
    strength: Annotated[float, Field(ge=0, le=1)] = 0.5


class SeriesTraining(Training):
    """The training loop, for series."""

    select: SeriesMetric | None = Field(  # type: ignore[assignment]  # narrower for images, wider here
        None, description="the validation metric that decides; default: the head's own"
    )


class SeriesCompression(Compression):
    """Which smaller candidates are tried; static quantization and pruning are made for convolutions."""

    passes: list[Literal["int8-dynamic"]] = Field(default=["int8-dynamic"])  # type: ignore[assignment]


class SeriesPromotion(Promotion):
    """What a challenging forecaster must show; margins are shares of the champion's loss, absolute where noted.

    Absolute for `log_score` (in nats, whose zero means nothing) and, with the defaults of images, for classes.
    """

    margin: Fraction = Field(0.05, description="how much worse it may be on training.select: a share of the loss")
    slice_margin: Fraction = Field(0.1, description="how much worse it may be for any entity, where there are several")


class SeriesUseCase(UseCase):
    """An application that forecasts a time series."""

    task: Literal["regression", "classification"] = "regression"
    modality: Literal["series"] = "series"
    data: SeriesData
    expectations: Expectations = Expectations(suite="series")
    cleaning: SeriesCleaning = SeriesCleaning()
    features: Features
    augmentation: SeriesAugmentation = SeriesAugmentation()
    model: Network = Network()
    training: SeriesTraining
    compression: SeriesCompression = SeriesCompression()
    export: Export = Export(formats=["onnx", "tflite"])
    promotion: SeriesPromotion = SeriesPromotion()

    @property
    def data_path(self) -> str | None:
        """The file, as declared."""
        return self.data.path

    @model_validator(mode="before")
    @classmethod
    def _margins_of_classes_are_those_of_images(cls, declared: Any) -> Any:
        model, promotion = (
            declared.get(key, {}) if isinstance(declared, dict) else None for key in ("model", "promotion")
        )
        if not isinstance(model, dict) or not isinstance(promotion, dict) or model.get("head") != "classes":
            return declared
        return declared | {"promotion": Promotion().model_dump(include={"margin", "slice_margin"}) | promotion}

    @model_validator(mode="after")
    def _head_fits_target(self) -> SeriesUseCase:
        classes, direction = self.model.head == "classes", self.features.target == "direction"
        if classes != direction:
            fitting = "classes" if direction else "gaussian, quantile or point"
            raise ValueError(
                f'model.head = "{self.model.head}" cannot forecast features.target = "{self.features.target}"; '
                f"expected {fitting}"
            )
        if (self.task == "classification") != classes:
            expected = "classification" if classes else "regression"
            raise ValueError(f'task = "{self.task}" does not fit model.head = "{self.model.head}"; use "{expected}"')
        return self

    @model_validator(mode="after")
    def _gates_name_figures(self) -> SeriesUseCase:
        for name in self.gates:
            if name not in get_args(SeriesFigure):
                raise ValueError(f"gates.{name}: no such figure; {nearest(name, get_args(SeriesFigure))}")
        return self
