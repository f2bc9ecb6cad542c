"""Forecasting as the training loop sees it: windows, augmentation, the loss of each head, validation metrics.

Shape legend: N windows, T rows, F features, B windows of a batch, K classes, Q quantile levels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.stats import norm
from torch import nn

from labline.devices import choose_device
from labline.distribution import ALONE, Distribution
from labline.errors import BadInput
from labline.evaluation import classification_metrics
from labline.image_classification import balanced_order, class_weights
from labline.series.augmentation import augment, mix
from labline.series.declaration import Head, Target
from labline.series.evaluation import pinball, qlike, squared_log_error
from labline.series.forecaster import LEVELS, Forecaster, forecast_mean, head_outputs, implied_variance
from labline.series.usecase import SeriesTransform
from labline.training import Better, Epoch, Fitted, optimize
from labline.usecase import Metric, Training

Floats = npt.NDArray[np.float32]

CHUNK = 1000  # windows that are read at once where no batch size is declared


class WindowSource(Protocol):
    """Windows that are built when asked for: `labline.series.dataset.Windows`, or `ArrayWindows`."""

    def __len__(self) -> int:
        """How many windows there are."""

    def batch(self, positions_B: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Raw float32 inputs B x T x F and targets B."""


@dataclass(frozen=True)
class ArrayWindows:
    """Windows at hand: float32 inputs N x T x F and targets N (class indices for the classes head)."""

    inputs: Floats
    targets: Floats

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, positions_B: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """The windows at these positions."""
        return self.inputs[positions_B], self.targets[positions_B]


@dataclass(frozen=True)
class ForecastSettings:
    """What is forecast and how: the head and its quantile levels, the target, the metric that selects an epoch.

    `select` of None is the head's own: qlike for realized volatility, else mse; accuracy for classes.
    Augmentation is by `policy` and `strength` of `labline.series.augmentation`.
    """

    head: Head = "gaussian"
    levels: tuple[float, ...] = LEVELS
    target: Target = "realized-volatility"
    select: str | None = None
    policy: tuple[SeriesTransform, ...] = ()
    strength: float = 0.5

    @property
    def metrics(self) -> dict[str, Better]:
        """The validation metrics of this head and target, the default of `select` first."""
        if self.head == "classes":
            return {**dict.fromkeys(get_args(Metric), "higher"), "log_score": "lower"}
        names = ["qlike", "mse"] if self.target == "realized-volatility" else ["mse"]
        names += {"gaussian": ["pinball", "log_score"], "quantile": ["pinball"], "point": []}[self.head]
        return dict.fromkeys(names, "lower")


def fit_forecaster(
    backbone: nn.Module,
    train: WindowSource,
    validation: WindowSource,
    settings: Training,
    forecast: ForecastSettings = ForecastSettings(),
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    distribution: Distribution = ALONE,
) -> Fitted[Forecaster]:
    """Train `backbone` (changed in place) on windows; see `labline.training.optimize`.

    Raises BadInput where windows, network and head do not fit together, LablineError where the loss is not finite.
    """
    device = choose_device(settings.device)
    objective = SeriesForecasting(backbone, train, validation, settings, forecast, device, distribution)
    return optimize(objective, settings, checkpoint, on_epoch)


def predict(model: Forecaster, windows: WindowSource, batch_size: int = CHUNK, device: str = "cpu") -> Floats:
    """Float32 forecasts N x outputs of every window, in order; the model is left on `device`, evaluating."""
    target = choose_device(device)
    model = model.to(target).eval()
    with torch.inference_mode():
        batches = [model(inputs_BTF.to(target)) for inputs_BTF, _ in _chunks(windows, batch_size)]
    return torch.cat(batches).cpu().numpy()


class SeriesForecasting:
    """Windows and their targets, as a `labline.training.Objective`.

    A series is a table: where several processes train together, each has all of it, and makes the windows of all of a
    batch, so that any two can be mixed; it keeps those of its share.

    Losses are in the target's standardised unit, so that no learning rate depends on the unit of a series.
    """

    unit = "windows"

    def __init__(
        self,
        backbone: nn.Module,
        train: WindowSource,
        validation: WindowSource,
        settings: Training,
        forecast: ForecastSettings,
        device: torch.device,
        distribution: Distribution = ALONE,
    ) -> None:
        self.distribution = distribution
        self.outputs = _check(backbone, train, validation, settings, forecast)
        self.train, self.validation, self.settings, self.forecast = train, validation, settings, forecast
        self.device, self.samples = device, len(train)
        self.metrics: Mapping[str, Better] = forecast.metrics
        self.select = forecast.select or next(iter(self.metrics))
        self.model = Forecaster(backbone, *_statistics(train, forecast.head), forecast.head, forecast.levels).to(device)
        self.backbone = backbone
        self.levels_Q = torch.tensor(forecast.levels, device=device)
        if forecast.head == "classes":
            self.targets_N = _targets(train).long()
            self.class_weights_K = class_weights(self.targets_N, self.outputs)

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """Positions of one epoch: shuffled, or drawn with every class equally likely."""
        if self.settings.imbalance == "sampler":
            return balanced_order(self.targets_N, self.class_weights_K, generator)
        return torch.randperm(self.samples, generator=generator, device=generator.device)

    def batch(self, positions_B: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Standardised, augmented windows B x T x F, with targets B, or probabilities B x K for classes: a share."""
        raw_BTF, targets_B = self.train.batch(positions_B.numpy())
        windows_BTF = self.model.normalize(torch.from_numpy(raw_BTF).to(self.device))
        targets = torch.from_numpy(targets_B).to(self.device)
        if self.forecast.head == "classes":
            targets = F.one_hot(targets.long(), self.outputs).float()
        policy, strength = self.forecast.policy, self.forecast.strength
        windows_BTF = augment(windows_BTF, policy, strength, generator)
        windows_BTF, targets = mix(windows_BTF, targets, policy, strength, generator)
        share = self.distribution.share(len(positions_B))
        return windows_BTF[share.start : share.stop], targets[share.start : share.stop]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The head's loss of the backbone's outputs."""
        if self.forecast.head != "classes":
            return self._forecast_loss(self.model.interpret(outputs), targets)
        weight_K = self.class_weights_K.to(self.device) if self.settings.imbalance == "weighted-loss" else None
        return F.cross_entropy(outputs, targets, weight=weight_K, label_smoothing=self.settings.label_smoothing)

    def _forecast_loss(self, forecast: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood without its constant, pinball loss or half the squared error, standardised."""
        errors_B1 = (targets_B[:, None] - forecast) / self.model.target_std
        if self.forecast.head == "gaussian":
            deviation_B = forecast[:, 1] / self.model.target_std
            return (deviation_B.log() + (errors_B1[:, 0] / deviation_B) ** 2 / 2).mean()
        if self.forecast.head == "quantile":
            return torch.maximum(self.levels_Q * errors_B1, (self.levels_Q - 1) * errors_B1).mean()
        return (errors_B1**2).mean() / 2

    def validation_batches(self) -> Iterator[torch.Tensor]:
        """Raw windows of the validation split."""
        rank, size = self.distribution.rank, self.distribution.size
        return (inputs_BTF for inputs_BTF, _ in islice(_chunks(self.validation), rank, None, size))

    def validate(self, outputs: torch.Tensor) -> dict[str, float]:
        """`loss`, as in training but without smoothing and weights, and every metric of the validation split."""
        targets_N = _targets(self.validation)
        if self.forecast.head == "classes":
            figures = classification_metrics(outputs.double().softmax(dim=1).numpy(), targets_N.long().numpy())
            figures |= {"loss": figures["log_loss"], "log_score": figures["log_loss"]}
        else:
            loss = self._forecast_loss(outputs.to(self.device), targets_N.to(self.device))
            figures = {"loss": loss.item()} | forecast_metrics(outputs, targets_N, self.forecast)
        return {name: figures[name] for name in ("loss", *self.metrics)}

    def finish(self) -> None:
        """Bring the model to the CPU."""
        self.model.cpu().eval()

    def identity(self) -> Iterator[bytes | memoryview]:
        """All that decides the result beside settings and network."""
        yield repr(self.forecast).encode()
        for windows in (self.train, self.validation):
            for inputs_BTF, targets_B in _chunks(windows):
                yield repr(inputs_BTF.shape).encode()
                yield inputs_BTF.numpy().data
                yield targets_B.numpy().data


def forecast_metrics(outputs: torch.Tensor, targets_N: torch.Tensor, forecast: ForecastSettings) -> dict[str, float]:
    """The metrics of a regression head's forecasts: the mean of each of `forecast_losses`."""
    return {name: float(loss.mean()) for name, loss in forecast_losses(outputs, targets_N, forecast).items()}


def forecast_losses(
    outputs: torch.Tensor, targets_N: torch.Tensor, forecast: ForecastSettings
) -> dict[str, npt.NDArray[np.float64]]:
    """The losses of a regression head's forecasts, N x outputs on the CPU, with their targets, N.

    N of each, of pinball N x Q.

    For realized volatility, whose targets are logarithms: `qlike` (Patton 2011) of the implied variance, and `mse`
    of its logarithm; for other targets `mse` of the forecast mean. `pinball` is the mean over the levels in the
    target's unit, `log_score` the negative log-likelihood in nats (Gneiting and Raftery 2007, "Strictly Proper
    Scoring Rules, Prediction, and Estimation"). Lower is better in all.
    """
    head, levels = forecast.head, forecast.levels
    predicted, observed_N = outputs.double().numpy(), targets_N.double().numpy()
    mean_N = forecast_mean(outputs.double(), head, levels).numpy()
    figures = {"mse": np.square(observed_N - mean_N)}
    if forecast.target == "realized-volatility":
        realized_N, implied_N = np.exp(2 * observed_N), implied_variance(outputs, head, levels).numpy()
        figures = {"qlike": qlike(realized_N, implied_N), "mse": squared_log_error(realized_N, implied_N)}
    if head == "quantile":
        figures["pinball"] = pinball(observed_N, predicted, levels)
    if head == "gaussian":
        deviation_N = predicted[:, 1]
        quantiles_NQ = mean_N[:, None] + deviation_N[:, None] * norm.ppf(levels)
        figures["pinball"] = pinball(observed_N, quantiles_NQ, levels)
        figures["log_score"] = -norm.logpdf(observed_N, mean_N, deviation_N)
    return figures


def _chunks(windows: WindowSource, size: int = CHUNK) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, max(len(windows), 1), size):  # no windows make one empty batch
        inputs_BTF, targets_B = windows.batch(np.arange(start, min(start + size, len(windows))))
        yield torch.from_numpy(np.ascontiguousarray(inputs_BTF)), torch.from_numpy(np.ascontiguousarray(targets_B))


def _targets(windows: WindowSource) -> torch.Tensor:
    return torch.cat([targets_B for _, targets_B in _chunks(windows)])


def _statistics(windows: WindowSource, head: Head) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Mean and standard deviation per feature, and of the target, in float64 over the rows of all windows.

    In two passes, because the difference of sums of squares loses small deviations of large values.
    """
    rows = len(windows) * windows.batch(np.arange(1))[0].shape[1]
    sums = [inputs_BTF.double().sum(dim=(0, 1)) for inputs_BTF, _ in _chunks(windows)]
    mean_F = torch.stack(sums).sum(dim=0) / rows
    squares = [(inputs_BTF.double() - mean_F).square().sum(dim=(0, 1)) for inputs_BTF, _ in _chunks(windows)]
    std_F = (torch.stack(squares).sum(dim=0) / rows).sqrt()
    # What rounding leaves of a constant feature is no deviation.
    std_F = torch.where(std_F > 1e-7 * mean_F.abs(), std_F, 0.0)
    if head == "classes":
        return mean_F, std_F, 0.0, 1.0
    targets_N = _targets(windows).double()
    return mean_F, std_F, float(targets_N.mean()), float(targets_N.std(correction=0))


def _check(
    backbone: nn.Module, train: WindowSource, validation: WindowSource, settings: Training, forecast: ForecastSettings
) -> int:
    """The number of outputs; raises BadInput where windows, network and head do not fit together."""
    for name, windows in (("train", train), ("validation", validation)):
        if len(windows) == 0:
            raise BadInput(f"the {name} split has no windows; look at the split, window and horizon in the declaration")
        _check_windows(name, windows, forecast.head)
    if forecast.head != "classes" and settings.imbalance != "none":
        raise BadInput(
            f'[training] imbalance = {settings.imbalance!r} is for classes, the head is {forecast.head!r}; use "none"'
        )
    inputs_BTF, _ = train.batch(np.arange(1))
    with torch.no_grad():
        answer: Any = copy.deepcopy(backbone).cpu().eval()(torch.zeros(2, *inputs_BTF.shape[1:]))
    expected = head_outputs(forecast.head, forecast.levels, classes=answer.shape[-1])
    if answer.shape != (2, expected):
        raise BadInput(
            f"the network answers {tuple(answer.shape)} to two windows; head {forecast.head!r} needs (2, {expected})"
        )
    if (
        forecast.head == "classes"
        and (largest := int(max(_targets(train).max(), _targets(validation).max()))) >= expected
    ):
        raise BadInput(f"the network tells {expected} classes apart, but the data has class {largest}; rebuild it")
    return int(expected)


def _check_windows(name: str, windows: WindowSource, head: Head) -> None:
    for inputs_BTF, targets_B in _chunks(windows):
        if inputs_BTF.dtype != torch.float32 or inputs_BTF.ndim != 3 or targets_B.shape != inputs_BTF.shape[:1]:
            raise BadInput(
                f"the {name} split has inputs {inputs_BTF.dtype} {tuple(inputs_BTF.shape)} and targets "
                f"{tuple(targets_B.shape)}; expected float32 N x window x features with N targets"
            )
        if not (inputs_BTF.isfinite().all() and targets_B.isfinite().all()):
            raise BadInput(
                f"the {name} split has windows with values that are not finite; gaps must be cleaned, and a logarithm "
                "of zero has none: look at [cleaning] and the features' inputs"
            )
