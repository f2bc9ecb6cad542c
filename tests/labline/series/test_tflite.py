"""Forecasters as TensorFlow Lite files: every architecture answers as PyTorch does, and int8 stays in its budget."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from labline.models import SERIES_ARCHITECTURES, build_series
from labline.series.compression import INT8
from labline.series.dataset import windows
from labline.series.export import forecast_parity
from labline.series.forecasting import ForecastSettings, fit_forecaster
from labline.series.tflite import search_forecasters_tflite, tflite_forecasts
from labline.series.usecase import SeriesCompression
from labline.usecase import Training
from tests.labline.series.market import FEATURES, as_csv, make_prices, prepare

pytestmark = pytest.mark.skipif(find_spec("litert_torch") is None, reason="needs the extra tflite: make setup")

CHOICE = ForecastSettings()


@pytest.mark.parametrize("architecture", sorted(SERIES_ARCHITECTURES))
def test_every_architecture_agrees_with_pytorch_and_keeps_the_budget_in_int8(architecture: str, tmp_path: Path) -> None:
    data = prepare(as_csv(make_prices(400), tmp_path), tmp_path / "data")
    train, validation = windows(data, "train"), windows(data, "validation")
    backbone = build_series(architecture, len(FEATURES.inputs), FEATURES.window, 2, width=0.5)
    model = fit_forecaster(backbone, train, validation, Training(epochs=2, precision="float32")).model
    settings = SeriesCompression()
    found = search_forecasters_tflite(model, settings, FEATURES, validation, CHOICE, tmp_path, seconds=0.1)
    parity = forecast_parity(model, tflite_forecasts(tmp_path / "fp32.tflite", validation), validation)
    assert parity.max_abs_difference <= 1e-4
    assert parity.decision_agreement >= 0.999
    int8 = found.candidates.set_index("name").loc[INT8]
    assert int8["within_budget"], f"int8 lost {int8['lost']:.4f}, budget {settings.max_metric_drop}"
