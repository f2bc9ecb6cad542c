"""Smaller forecasters: which are tried, what each costs, and the one that pays."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from labline.compression.candidates import FLOAT32, Lost, Quality, Tried, attempt, measured
from labline.compression.choice import Search, choose
from labline.evaluation import classification_metrics
from labline.export.onnx_runtime import session
from labline.series.declaration import Features
from labline.series.export import export_forecaster, onnx_forecasts, quantize_weights
from labline.series.forecaster import Forecaster
from labline.series.forecasting import ForecastSettings, WindowSource, forecast_metrics
from labline.usecase import Compression

MEASURED_WINDOWS = 64
INT8, UNIT = "int8-dynamic", "windows"


def search_forecasters(
    model: Forecaster,
    settings: Compression,
    features: Features,
    validation: WindowSource,
    forecast: ForecastSettings,
    directory: Path,
    seconds: float = 1.5,
) -> Search:
    """Export the model and its INT8 version to `directory`, measure both, choose as images do.

    The metric is the one that selects, on validation, through ONNX Runtime. `settings.max_metric_drop` bounds what it
    may lose: absolutely where more is better, and relative to fp32 where it is a loss, which has no natural scale.
    """

    def judged(path: Path) -> Quality:
        return Quality(selected(onnx_forecasts(session(path), validation), validation, forecast))

    float32 = export_forecaster(model, directory / f"{FLOAT32}.onnx", features.window, len(features.inputs))
    candidates = [Tried(FLOAT32, float32, judged(float32))]
    if INT8 in settings.passes:
        candidates.append(attempt(INT8, directory, partial(quantize_weights, float32), judged))
    samples, _ = validation.batch(np.arange(min(MEASURED_WINDOWS, len(validation))))
    table = measured(candidates, samples, settings.max_metric_drop, seconds, loss_of(forecast))
    return choose(table, settings, UNIT)


def selected(
    outputs: npt.NDArray[np.float32], windows: WindowSource, forecast: ForecastSettings
) -> Mapping[str, float]:
    """The metric that selects, by its name."""
    name = forecast.select or next(iter(forecast.metrics))
    return {name: validation_metrics(outputs, windows, forecast)[name]}


def loss_of(forecast: ForecastSettings) -> Lost:
    """How much of the metric that selects is lost, from its value with fp32 and with a candidate."""
    name = forecast.select or next(iter(forecast.metrics))
    return relative_rise if forecast.metrics[name] == "lower" else operator.sub


def relative_rise(float32: float, value: float) -> float:
    """By which share of its size a loss rose."""
    return (value - float32) / max(abs(float32), 1e-12)


def validation_metrics(
    outputs: npt.NDArray[np.float32], windows: WindowSource, forecast: ForecastSettings
) -> dict[str, float]:
    """Every metric of the head, of forecasts N x outputs of all `windows`."""
    _, targets_N = windows.batch(np.arange(len(windows)))
    answers = torch.from_numpy(outputs)
    if forecast.head == "classes":
        probabilities_NK = answers.double().softmax(dim=1).numpy()
        figures = classification_metrics(probabilities_NK, targets_N.astype(np.int64))
        return figures | {"log_score": figures["log_loss"]}
    return forecast_metrics(answers, torch.from_numpy(targets_N), forecast)
