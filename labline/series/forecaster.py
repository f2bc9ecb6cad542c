"""The forecaster as it is trained, exported and served: raw windows in, a forecast in the target's unit out.

Shape legend: N windows, T rows, F features, Q quantile levels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from labline.errors import BadInput
from labline.series.answers import level_shares
from labline.series.declaration import Head

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SMALLEST_DEVIATION = 1e-3  # of the target's standardised unit: a likelihood without a floor can grow without end


class Forecaster(nn.Module):
    """A backbone with its scalers and its head.

    Carrying both inside the module is what lets a client send raw features to the exported graph.

    `mean` and `std` are per feature, `target_mean` and `target_std` of the target, all of training windows alone.
    The backbone sees and answers standardised values. `levels` are the quantiles of the quantile head, ascending
    within 0 and 1, of which the middle one is the anchor of the others.
    """

    mean: torch.Tensor
    std: torch.Tensor
    target_mean: torch.Tensor
    target_std: torch.Tensor
    spread: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        mean: torch.Tensor,
        std: torch.Tensor,
        target_mean: float = 0.0,
        target_std: float = 1.0,
        head: Head = "gaussian",
        levels: Sequence[float] = LEVELS,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.levels = backbone, head, tuple(levels)
        self.register_buffer("mean", mean.reshape(1, 1, -1).float())
        self.register_buffer("std", _divisor(std).reshape(1, 1, -1))
        self.register_buffer("target_mean", torch.tensor(float(target_mean)))
        self.register_buffer("target_std", _divisor(torch.tensor(float(target_std))))
        self.register_buffer("spread", _spread(_checked(self.levels)), persistent=False)

    def normalize(self, windows_NTF: torch.Tensor) -> torch.Tensor:
        """Raw float32 windows to standardised ones."""
        return (windows_NTF - self.mean) / self.std

    def interpret(self, outputs: torch.Tensor) -> torch.Tensor:
        """The backbone's float32 outputs as a forecast in the target's unit: what `forward` returns."""
        if self.head == "classes":
            return outputs
        if self.head == "gaussian":
            deviation_N1 = (F.softplus(outputs[:, 1:]) + SMALLEST_DEVIATION) * self.target_std
            return torch.cat([outputs[:, :1] * self.target_std + self.target_mean, deviation_N1], dim=1)
        if self.head == "quantile":
            # Steps above zero never let quantiles cross. Summed by hand: cumsum does not export everywhere, and a
            # matrix product would be rounded where validation runs in bfloat16.
            outputs = outputs[:, :1] + (F.softplus(outputs[:, 1:]).unsqueeze(2) * self.spread).sum(dim=1)
        return outputs * self.target_std + self.target_mean

    def forward(self, windows_NTF: torch.Tensor) -> torch.Tensor:
        """Raw float32 windows, N x T x F, to forecasts.

        gaussian: N x 2, mean and standard deviation; quantile: N x Q, ascending; point: N x 1, the mean; all in
        the target's unit. classes: N x K logits.
        """
        return self.interpret(self.backbone(self.normalize(windows_NTF)).float())


def head_outputs(head: Head, levels: Sequence[float] = LEVELS, classes: int = 2) -> int:
    """How many outputs a backbone needs for this head."""
    return {"gaussian": 2, "quantile": len(levels), "point": 1, "classes": classes}[head]


def forecast_mean(forecast: torch.Tensor, head: Head, levels: Sequence[float] = LEVELS) -> torch.Tensor:
    """The expected target of a regression forecast, N.

    Of quantiles, the mean of the distribution that has each of them with the probability nearest to its level.
    """
    if head == "quantile":
        return forecast @ _shares(levels).to(forecast)
    return forecast[:, 0]


def implied_variance(forecast: torch.Tensor, head: Head, levels: Sequence[float] = LEVELS) -> torch.Tensor:
    """The expected variance, N, of a forecast of log volatility y: the mean of exp(2 y), in float64.

    gaussian: exp(2 mean + 2 deviation²), the mean of a lognormal. quantile: the mean over the quantiles, as in
    `forecast_mean`. point: exp(2 y), which is the median and so lower than the mean.
    """
    forecast = forecast.double()
    if head == "quantile":
        return (2 * forecast).exp() @ _shares(levels)
    deviation_N = forecast[:, 1] if head == "gaussian" else torch.zeros(())
    return (2 * forecast[:, 0] + 2 * deviation_N**2).exp()


def _checked(levels: tuple[float, ...]) -> tuple[float, ...]:
    ascending = all(one < other for one, other in zip((0.0, *levels), (*levels, 1.0), strict=True))
    if not ascending or not levels:
        raise BadInput(
            f"[model] quantiles = {list(levels)} must ascend from above 0 to below 1, such as {list(LEVELS)}"
        )
    return levels


def _spread(levels: tuple[float, ...]) -> torch.Tensor:
    """(Q - 1) x Q: which steps lie between the anchor and each quantile, negative below it."""
    quantile_Q = torch.arange(len(levels))
    step_S1 = torch.arange(len(levels) - 1).unsqueeze(1)
    anchor = len(levels) // 2
    above = (step_S1 >= anchor) & (step_S1 < quantile_Q)
    below = (step_S1 < anchor) & (step_S1 >= quantile_Q)
    return above.float() - below.float()


def _shares(levels: Sequence[float]) -> torch.Tensor:
    """The probability nearest to each level, Q in float64: 1 in all."""
    return torch.from_numpy(level_shares(levels))


def _divisor(std: torch.Tensor) -> torch.Tensor:
    """A constant feature has nothing to be scaled by."""
    return torch.where(std > 0, std, 1.0).float()
