"""The forecaster: scalers and heads inside the module, and inside what is exported."""

from __future__ import annotations

import warnings
from typing import get_args

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labline.errors import BadInput
from labline.models import SERIES_ARCHITECTURES, build_series
from labline.series.declaration import Head
from labline.series.forecaster import (
    Forecaster,
    forecast_mean,
    head_outputs,
    implied_variance,
)

MEAN, STD = torch.tensor([0.0, 1000.0, 5.0, -3.0]), torch.tensor([0.01, 50.0, 2.0, 0.0])


def raw_windows(samples: int, rows: int = 12) -> torch.Tensor:
    return torch.randn(samples, rows, 4, generator=torch.Generator().manual_seed(samples)) * STD + MEAN


def forecaster(architecture: str = "lstm", head: Head = "gaussian", window: int = 12) -> Forecaster:
    backbone = build_series(architecture, 4, window, head_outputs(head, classes=3), width=0.25, depth=2)
    return Forecaster(backbone, MEAN, STD, target_mean=-2.0, target_std=0.4, head=head).eval()


def onnx_session(model: nn.Module, example: torch.Tensor) -> onnxruntime.InferenceSession:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["windows"],
            output_names=["forecast"],
            verbose=False,
        )
    assert program is not None
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("architecture", "head"),
    [*((name, "gaussian") for name in SERIES_ARCHITECTURES), *(("gru", head) for head in get_args(Head)[1:])],
)
def test_the_exported_graph_takes_raw_windows_of_any_batch_size(architecture: str, head: Head) -> None:
    model = forecaster(architecture, head)
    session = onnx_session(model, raw_windows(2))
    for batch_size in (1, 2, 64):
        windows = raw_windows(batch_size)
        with torch.inference_mode():
            expected = model(windows).numpy()
        (answered,) = session.run(None, {"windows": windows.numpy()})
        np.testing.assert_allclose(answered, expected, rtol=0, atol=1e-5)


def test_the_backbone_sees_standardised_windows_and_a_constant_feature_as_zero() -> None:
    seen = forecaster().normalize(raw_windows(500))
    torch.testing.assert_close(seen.mean(dim=(0, 1)), torch.zeros(4), atol=0.05, rtol=0)
    torch.testing.assert_close(seen.std(dim=(0, 1)), torch.tensor([1.0, 1, 1, 0]), atol=0.05, rtol=0)


def test_forecasts_are_in_the_unit_of_the_target() -> None:
    model = Forecaster(nn.Identity(), torch.zeros(1), torch.ones(1), target_mean=-2.0, target_std=0.4)
    mean, deviation = model.interpret(torch.tensor([[1.0, 0.0]]))[0].tolist()
    assert mean == pytest.approx(-2 + 0.4)
    assert deviation == pytest.approx(0.4 * (np.log(2) + 1e-3))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=5, max_size=5))
def test_quantiles_never_cross_and_the_middle_one_is_the_first_output(outputs: list[float]) -> None:
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    model = Forecaster(nn.Identity(), torch.zeros(1), torch.ones(1), head="quantile", levels=levels)
    quantiles = model.interpret(torch.tensor([outputs]))
    assert (quantiles.diff(dim=1) >= 0).all()
    assert quantiles[0, 2].item() == pytest.approx(outputs[0])


@pytest.mark.parametrize("levels", [(), (0.5, 0.1), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0)])
def test_levels_that_are_none_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match="must ascend from above 0 to below 1"):
        Forecaster(nn.Identity(), torch.zeros(1), torch.ones(1), head="quantile", levels=levels)


def test_implied_variance_is_the_mean_of_the_variances_that_are_forecast() -> None:
    drawn = -2 + 0.4 * torch.randn(200_000, generator=torch.Generator().manual_seed(0)).double()
    expected = (2 * drawn).exp().mean().item()
    assert implied_variance(torch.tensor([[-2, 0.4]]), "gaussian").item() == pytest.approx(expected, rel=0.02)
    levels = tuple(np.linspace(0.005, 0.995, 100))
    quantiles = torch.quantile(drawn, torch.tensor(levels, dtype=torch.float64)).unsqueeze(0)
    assert implied_variance(quantiles, "quantile", levels).item() == pytest.approx(expected, rel=0.02)
    assert forecast_mean(quantiles, "quantile", levels).item() == pytest.approx(-2, abs=0.01)
    assert implied_variance(torch.tensor([[-2.0]]), "point").item() == pytest.approx(np.exp(-4))


def test_scalers_travel_with_the_weights() -> None:
    model, other = forecaster(), Forecaster(build_series("lstm", 4, 12, 2, 0.25, 2), torch.zeros(4), torch.ones(4))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(raw_windows(5)), model(raw_windows(5)))
