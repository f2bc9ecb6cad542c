"""The search for a smaller forecaster: what is tried, and what a loss may rise by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from labline.export.onnx_runtime import session
from labline.models import build_series
from labline.series.compression import relative_rise, search_forecasters, validation_metrics
from labline.series.dataset import windows
from labline.series.export import onnx_forecasts
from labline.series.forecaster import Forecaster
from labline.series.forecasting import ForecastSettings
from labline.series.usecase import SeriesCompression
from tests.labline.series.market import FEATURES, as_csv, make_prices, prepare

CHOICE = ForecastSettings()


def test_fp32_and_int8_are_measured_by_the_metric_that_selects(tmp_path: Path) -> None:
    validation = windows(prepare(as_csv(make_prices(300), tmp_path), tmp_path / "data"), "validation")
    backbone = build_series("lstm", len(FEATURES.inputs), FEATURES.window, 2)
    features = len(FEATURES.inputs)
    model = Forecaster(backbone, torch.zeros(features), torch.ones(features), target_mean=-2.0)
    found = search_forecasters(model, SeriesCompression(), FEATURES, validation, CHOICE, tmp_path, seconds=0.1)
    table = found.candidates.set_index("name")
    assert list(table.index) == ["fp32", "int8-dynamic"]
    forecasts = onnx_forecasts(session(tmp_path / "fp32.onnx"), validation)
    assert table.loc["fp32", "metric"] == pytest.approx(validation_metrics(forecasts, validation, CHOICE)["qlike"])
    assert table.loc["int8-dynamic", "lost"] == pytest.approx(
        relative_rise(table.loc["fp32", "metric"], table.loc["int8-dynamic", "metric"])
    )
    assert found.chosen in table.index


def test_without_a_pass_fp32_is_kept(tmp_path: Path) -> None:
    validation = windows(prepare(as_csv(make_prices(300), tmp_path), tmp_path / "data"), "validation")
    features = len(FEATURES.inputs)
    model = Forecaster(build_series("rnn", features, FEATURES.window, 2), torch.zeros(features), torch.ones(features))
    none = SeriesCompression(passes=[])
    assert search_forecasters(model, none, FEATURES, validation, CHOICE, tmp_path, seconds=0.1).chosen == "fp32"


def test_a_rise_is_a_share_of_the_loss_whatever_its_sign() -> None:
    assert relative_rise(0.5, 0.51) == pytest.approx(0.02)
    assert relative_rise(-2.0, -1.9) == pytest.approx(0.05)
    assert relative_rise(0.5, 0.4) < 0
