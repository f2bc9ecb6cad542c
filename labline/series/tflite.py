"""Forecasters as TensorFlow Lite files: float32 and INT8 weights, and which of the two is released."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from labline.compression.candidates import FLOAT32, Quality
from labline.compression.choice import Search
from labline.compression.tflite import choose_tflite
from labline.export.tflite import write_tflite
from labline.export.tflite_runtime import SUFFIX, interpreter, tflite_answers
from labline.series.compression import INT8, MEASURED_WINDOWS, UNIT, loss_of, selected
from labline.series.declaration import Features
from labline.series.export import INPUT, OUTPUT
from labline.series.forecaster import Forecaster
from labline.series.forecasting import ForecastSettings, WindowSource
from labline.usecase import Compression


def export_forecaster_tflite(model: Forecaster, path: Path, window: int, features: int) -> Path:
    """Write the forecaster as one TensorFlow Lite file for one window at a time, and return its path.

    Input `windows`: float32, 1 x window x features, raw. Output `forecast` as of `export_forecaster`. Raises BadInput
    where the extra is missing or the network cannot be exported.
    """
    released = copy.deepcopy(model).cpu().eval()
    return write_tflite(
        released, torch.zeros(1, window, features), path, INPUT, [OUTPUT], type(model.backbone).__name__
    )


def search_forecasters_tflite(
    model: Forecaster,
    settings: Compression,
    features: Features,
    validation: WindowSource,
    forecast: ForecastSettings,
    directory: Path,
    seconds: float = 1.5,
) -> Search:
    """As `labline.series.compression.search_forecasters`; TensorFlow Lite files compete with each other alone.

    INT8 is of dynamic range: static quantization costs a recurrent state its precision.
    """

    def judged(path: Path) -> Quality:
        return Quality(selected(tflite_forecasts(path, validation), validation, forecast))

    path = directory / f"{FLOAT32}{SUFFIX}"
    float32 = export_forecaster_tflite(model, path, features.window, len(features.inputs))
    samples, _ = validation.batch(np.arange(min(MEASURED_WINDOWS, len(validation))))
    passes: dict[str, None] = {INT8: None} if INT8 in settings.passes else {}
    return choose_tflite(float32, passes, judged, samples, settings, UNIT, loss_of(forecast), seconds)


def tflite_forecasts(path: Path, windows: WindowSource) -> npt.NDArray[np.float32]:
    """What a TensorFlow Lite file forecasts for every window, in order: float32 N x outputs."""
    inputs_NTF, _ = windows.batch(np.arange(len(windows)))
    return tflite_answers(interpreter(path), inputs_NTF, OUTPUT)
