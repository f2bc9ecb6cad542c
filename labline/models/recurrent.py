"""Recurrent networks for series: Elman's, gated recurrent units, and long short-term memory.

Each reads a window from its first row to its last and answers from the last state. All of a window is at hand,
so nothing is packed and no state is carried from one window to the next: that is what exports.

Shape legend: N windows, T rows, F features.
"""

from __future__ import annotations

import torch
from torch import nn

HIDDEN_UNITS = 32


class Recurrent(nn.Module):
    """A stack of recurrent layers with a linear layer on the last state of the topmost."""

    def __init__(self, layers: nn.RNNBase, outputs: int) -> None:
        super().__init__()
        self.layers = layers
        self.head = nn.Linear(layers.hidden_size, outputs)

    def forward(self, windows_NTF: torch.Tensor) -> torch.Tensor:
        """Float N x window x features to N x outputs."""
        states_NTH, _ = self.layers(windows_NTF)
        answers: torch.Tensor = self.head(states_NTH[:, -1])
        return answers


def rnn(features: int, window: int, outputs: int, width: float = 1.0, depth: int = 1) -> Recurrent:
    """Elman's network with tanh (Elman 1990, "Finding Structure in Time"): `depth` layers of 32 x `width` units."""
    return Recurrent(nn.RNN(features, _hidden(width), depth, batch_first=True), outputs)


def gru(features: int, window: int, outputs: int, width: float = 1.0, depth: int = 1) -> Recurrent:
    """Gated recurrent units (Cho et al. 2014, arXiv:1406.1078): `depth` layers of 32 x `width` units."""
    return Recurrent(nn.GRU(features, _hidden(width), depth, batch_first=True), outputs)


def lstm(features: int, window: int, outputs: int, width: float = 1.0, depth: int = 1) -> Recurrent:
    """Long short-term memory (Hochreiter and Schmidhuber 1997): `depth` layers of 32 x `width` units."""
    return Recurrent(nn.LSTM(features, _hidden(width), depth, batch_first=True), outputs)


def _hidden(width: float) -> int:
    return max(4, round(HIDDEN_UNITS * width))
