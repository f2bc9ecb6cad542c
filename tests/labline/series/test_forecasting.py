"""`fit_forecaster`: the training loop on windows, with every head, killed and resumed, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from labline.errors import BadInput, LablineError
from labline.models import build_series
from labline.series.forecaster import Forecaster, head_outputs
from labline.series.forecasting import ArrayWindows, ForecastSettings, fit_forecaster, predict
from labline.training import Epoch, Fitted
from labline.usecase import Training

LEVELS = (0.1, 0.5, 0.9)
ALL = ForecastSettings(policy=("jitter", "scaling", "slicing", "mixup"), strength=0.2)


def volatility(samples: int, seed: int = 0) -> ArrayWindows:
    """Log volatility that follows the first feature's last row, with noise that the second one's tells."""
    random = np.random.default_rng(seed)
    inputs = random.normal(0, 1, (samples, 10, 3))
    noise = random.normal(0, 0.2, samples) * np.exp(0.5 * inputs[:, -1, 1])
    targets = -2 + 0.6 * inputs[:, -1, 0] + noise
    return ArrayWindows((inputs * [0.01, 50, 1] + [0, 1000, 5]).astype(np.float32), targets.astype(np.float32))


def direction(samples: int, seed: int = 0) -> ArrayWindows:
    windows = volatility(samples, seed)
    return replace(windows, targets=(windows.targets > -2).astype(np.float32))


def train(
    settings: Training,
    checkpoint: Path | None = None,
    forecast: ForecastSettings = ALL,
    architecture: str = "lstm",
    **options: object,
) -> Fitted[Forecaster]:
    backbone = build_series(architecture, 3, 10, head_outputs(forecast.head, forecast.levels), width=0.25)
    windows = direction if forecast.head == "classes" else volatility
    return fit_forecaster(backbone, windows(400), windows(200, 1), settings, forecast, checkpoint, **options)  # type: ignore[arg-type]


def assert_same(one: Fitted[Forecaster], other: Fitted[Forecaster]) -> None:
    clock = ["seconds", "windows_per_second"]
    pd.testing.assert_frame_equal(one.history.drop(columns=clock), other.history.drop(columns=clock), check_exact=True)
    assert one.best_epoch == other.best_epoch
    weights, others = one.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


LEARNING = Training(epochs=12, batch_size=40, learning_rate=0.02, precision="float32")


@pytest.mark.parametrize("architecture", ["rnn", "gru", "lstm", "transformer", "tcn"])
def test_every_network_learns(architecture: str) -> None:
    fitted = train(LEARNING, forecast=ForecastSettings(), architecture=architecture)
    unconditional = 4 * volatility(200, 1).targets.var()  # of log variance
    assert fitted.history["validation_mse"].iloc[-1] < 0.7 * unconditional
    assert fitted.history["validation_qlike"].iloc[-1] == fitted.validation_metric


def test_the_gaussian_head_learns_how_sure_it_is() -> None:
    fitted = train(LEARNING, forecast=ForecastSettings())
    validation = volatility(200, 1)
    mean, deviation = predict(fitted.model, validation).T
    scores = (validation.targets - mean) / deviation
    assert 0.7 < scores.std() < 1.4
    assert np.corrcoef(deviation, validation.inputs[:, -1, 1])[0, 1] > 0.5
    assert fitted.history["validation_log_score"].iloc[-1] < 0.5


def test_quantiles_cover_what_they_say() -> None:
    forecast = ForecastSettings(head="quantile", levels=LEVELS, select="pinball")
    fitted = train(LEARNING, forecast=forecast)
    validation = volatility(1000, 2)
    below = validation.targets[:, None] <= predict(fitted.model, validation)
    np.testing.assert_allclose(below.mean(axis=0), LEVELS, atol=0.1)
    assert fitted.history["validation_pinball"].iloc[-1] < fitted.history["validation_pinball"].iloc[0]


def test_point_and_class_heads_learn() -> None:
    point = train(LEARNING, forecast=ForecastSettings(head="point", target="value"))
    assert "validation_qlike" not in point.history
    assert point.validation_metric < 0.5 * volatility(200, 1).targets.var()
    for imbalance in ("none", "weighted-loss", "sampler"):
        settings = LEARNING.model_copy(update={"imbalance": imbalance})
        forecast = replace(ALL, head="classes", target="direction")
        assert train(settings, forecast=forecast).history["validation_accuracy"].iloc[-1] > 0.8


def test_scalers_are_those_of_the_training_windows_alone() -> None:
    model = train(Training(epochs=1)).model
    rows = volatility(400).inputs.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(model.mean.flatten(), rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(model.std.flatten(), rows.std(axis=0), rtol=1e-5)
    assert model.target_mean == pytest.approx(volatility(400).targets.mean(), rel=1e-5)
    assert model.target_std == pytest.approx(volatility(400).targets.std(), rel=1e-5)


def test_the_unit_of_the_series_decides_nothing() -> None:
    """Training on other units of inputs and target gives the same forecasts in those units."""
    settings, forecast = LEARNING.model_copy(update={"epochs": 3}), ForecastSettings(target="value")
    small, large = volatility(400), volatility(400)
    large = ArrayWindows(large.inputs * 1024, large.targets * 1024)  # a power of two rounds nothing

    def forecasts(windows: ArrayWindows) -> np.ndarray:
        return predict(
            fit_forecaster(build_series("gru", 3, 10, 2), windows, windows, settings, forecast).model, windows
        )

    np.testing.assert_allclose(forecasts(large), 1024 * forecasts(small), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])  # the second has dropout
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, architecture: str) -> None:
    settings = Training(epochs=5, batch_size=50, ema=0.9)

    def interrupt(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "training.pt"
    with pytest.raises(KeyboardInterrupt):
        train(settings, checkpoint, architecture=architecture, on_epoch=interrupt)
    seen: list[Epoch] = []
    resumed = train(settings, checkpoint, architecture=architecture, on_epoch=seen.append)
    assert [epoch.restored for epoch in seen] == [True, True, False, False, False]
    assert_same(resumed, train(settings, architecture=architecture))


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_forecasting as example
from labline.usecase import Training

def kill(epoch):
    if epoch.epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)

example.train(Training(epochs=5, batch_size=50, ema=0.9), Path(sys.argv[2]), on_epoch=kill)
"""


def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    checkpoint = tmp_path / "training.pt"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(Path(__file__).parent), str(checkpoint)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    settings = Training(epochs=5, batch_size=50, ema=0.9)
    resumed: list[Epoch] = []
    after_the_kill = train(settings, checkpoint, on_epoch=resumed.append)
    assert sum(epoch.restored for epoch in resumed) == 3
    assert_same(after_the_kill, train(settings))


@pytest.mark.parametrize("change", ["data", "forecast"])
def test_a_checkpoint_of_other_windows_or_another_forecast_is_ignored(tmp_path: Path, change: str) -> None:
    settings, seen = Training(epochs=1, batch_size=50), list[Epoch]()
    train(settings, tmp_path / "training.pt")
    windows = volatility(400)
    if change == "data":
        windows.inputs[7, 3, 1] += 1
    forecast = replace(ALL, strength=0.3) if change == "forecast" else ALL
    network = build_series("lstm", 3, 10, 2, width=0.25)
    fit_forecaster(network, windows, volatility(200, 1), settings, forecast, tmp_path / "training.pt", seen.append)
    assert not seen[0].restored


@pytest.mark.parametrize("select", ["qlike", "mse", "pinball", "log_score"])
def test_early_stopping_keeps_the_epoch_with_the_lowest_loss(select: str) -> None:
    settings = LEARNING.model_copy(update={"epochs": 30, "early_stopping": 2, "schedule": "constant"})
    fitted = train(settings, forecast=ForecastSettings(select=select))
    scores = fitted.history[f"validation_{select}"]
    assert fitted.best_epoch == scores[scores == scores.min()].index[-1] + 1
    assert fitted.validation_metric == scores.min()
    assert len(fitted.history) == min(30, fitted.best_epoch + 2)


def windows_of(inputs: np.ndarray, targets: np.ndarray | None = None) -> ArrayWindows:
    return ArrayWindows(inputs, np.zeros(len(inputs), np.float32) if targets is None else targets)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (windows_of(np.zeros((0, 10, 3), np.float32)), "has no windows"),
        (windows_of(np.zeros((4, 10, 3), np.float64)), "expected float32"),
        (windows_of(np.zeros((4, 10), np.float32)), "expected float32"),
        (windows_of(np.full((4, 10, 3), np.nan, np.float32)), "not finite"),
        (windows_of(np.zeros((4, 10, 3), np.float32), np.full(4, -np.inf, np.float32)), "not finite"),
    ],
)
def test_windows_that_do_not_fit_are_refused(windows: ArrayWindows, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        fit_forecaster(build_series("gru", 3, 10, 2), volatility(20), windows, Training(epochs=1))


@pytest.mark.parametrize(
    ("outputs", "settings", "forecast", "message"),
    [
        (3, {}, ForecastSettings(), r"needs \(2, 2\)"),
        (2, {"imbalance": "sampler"}, ForecastSettings(), "is for classes"),
        (2, {}, ForecastSettings(select="qlick"), "did you mean 'qlike'"),
        (2, {}, ForecastSettings(target="value", select="qlike"), "select = 'qlike' is not measured here"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    outputs: int, settings: dict[str, object], forecast: ForecastSettings, message: str
) -> None:
    declared = Training.model_validate({"epochs": 1} | settings)
    with pytest.raises(BadInput, match=message):
        fit_forecaster(build_series("gru", 3, 10, outputs), volatility(20), volatility(20, 1), declared, forecast)


def test_more_classes_than_outputs_are_refused() -> None:
    three = replace(direction(20), targets=np.full(20, 2, np.float32))
    forecast = ForecastSettings(head="classes", target="direction")
    with pytest.raises(BadInput, match="the data has class 2"):
        fit_forecaster(build_series("gru", 3, 10, 2), three, three, Training(epochs=1), forecast)


def test_a_diverging_run_says_what_to_lower() -> None:
    with pytest.raises(LablineError, match="lower .*learning_rate"):
        train(Training(epochs=3, batch_size=50, optimizer="sgd", learning_rate=1e38, gradient_clip=0))


def test_own_networks_train_with_the_same_loop() -> None:
    own = nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.Tanh(), nn.Linear(8, 2))
    fitted = fit_forecaster(own, volatility(400), volatility(200, 1), LEARNING)
    assert fitted.history["validation_qlike"].iloc[-1] < fitted.history["validation_qlike"].iloc[0]
    assert predict(fitted.model, volatility(7)).shape == (7, 2)
