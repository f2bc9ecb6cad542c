"""The declared forecaster: its network freshly made, or with weights from disk."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from labline.models import build_series
from labline.series.forecaster import Forecaster, head_outputs
from labline.series.forecasting import ForecastSettings
from labline.series.usecase import SeriesUseCase


def forecast_settings(declaration: SeriesUseCase) -> ForecastSettings:
    """What is forecast and how, as declared."""
    return ForecastSettings(
        head=declaration.model.head,
        levels=tuple(declaration.model.quantiles),
        target=declaration.features.target,
        select=declaration.training.select,
        policy=tuple(declaration.augmentation.policy),
        strength=declaration.augmentation.strength,
    )


def selected_metric(declaration: SeriesUseCase) -> tuple[str, bool]:
    """The validation metric that decides, and whether it is a loss: less of it is better."""
    settings = forecast_settings(declaration)
    name = settings.select or next(iter(settings.metrics))
    return name, settings.metrics.get(name) == "lower"


def build_forecaster_network(declaration: SeriesUseCase) -> torch.nn.Module:
    """The declared network, freshly initialised from the declared seed."""
    network, features = declaration.model, declaration.features
    return build_series(
        network.architecture,
        len(features.inputs),
        features.window,
        head_outputs(network.head, network.quantiles),
        network.width,
        network.depth,
        network.options,
        seed=declaration.training.seed,
    )


def load_forecaster(path: Path, declaration: SeriesUseCase) -> Forecaster:
    """The declared forecaster with the weights and scalers at `path`, on the CPU in evaluation mode."""
    features, network = len(declaration.features.inputs), declaration.model
    backbone = build_forecaster_network(declaration)
    scalers = torch.zeros(features), torch.ones(features)
    model = Forecaster(backbone, *scalers, head=network.head, levels=network.quantiles)
    model.load_state_dict(load_file(path))
    return model.eval()
