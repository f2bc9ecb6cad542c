"""A temporal convolutional network: causal convolutions whose reach doubles from block to block.

Bai, Kolter and Koltun 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
Modeling", arXiv:1803.01271; without their weight norm, which does not survive export, and of few blocks not missed.

Shape legend: N windows, T rows, F features, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = 32
KERNEL = 3


class CausalConvolution(nn.Module):
    """A dilated convolution padded in the past alone: row t of its answer knows rows up to t."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.past = (KERNEL - 1) * dilation
        self.convolution = nn.Conv1d(inputs, outputs, KERNEL, dilation=dilation)

    def forward(self, rows_NCT: torch.Tensor) -> torch.Tensor:
        """Float N x inputs x T to N x outputs x T."""
        convolved: torch.Tensor = self.convolution(F.pad(rows_NCT, (self.past, 0)))
        return convolved


class TemporalBlock(nn.Module):
    """Two causal convolutions of one dilation, with dropout, added to their input."""

    def __init__(self, inputs: int, outputs: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            CausalConvolution(inputs, outputs, dilation), nn.ReLU(), nn.Dropout(dropout),
            CausalConvolution(outputs, outputs, dilation), nn.ReLU(), nn.Dropout(dropout),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, rows_NCT: torch.Tensor) -> torch.Tensor:
        """Float N x inputs x T to N x outputs x T."""
        return F.relu(self.convolutions(rows_NCT) + self.shortcut(rows_NCT))


class Temporal(nn.Module):
    """Temporal blocks with a linear layer on their last row."""

    def __init__(self, blocks: nn.Sequential, channels: int, outputs: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.head = nn.Linear(channels, outputs)

    def forward(self, windows_NTF: torch.Tensor) -> torch.Tensor:
        """Float N x window x features to N x outputs."""
        rows_NCT = self.blocks(windows_NTF.transpose(1, 2))
        answers: torch.Tensor = self.head(rows_NCT[:, :, -1])
        return answers


def tcn(features: int, window: int, outputs: int, width: float = 1.0, depth: int = 1, dropout: float = 0.1) -> Temporal:
    """The network: `depth` blocks of 32 x `width` channels at each dilation 1, 2, 4 … until they see all the window."""
    channels = max(4, round(CHANNELS * width))
    blocks: list[nn.Module] = []
    dilation, reach = 1, 1
    while reach < window or not blocks:
        for _ in range(depth):
            blocks.append(TemporalBlock(channels if blocks else features, channels, dilation, dropout))
        reach += 2 * (KERNEL - 1) * dilation * depth
        dilation *= 2
    return Temporal(nn.Sequential(*blocks), channels, outputs)
