"""A Transformer encoder for series (Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762).

Norms come before attention and feed-forward layers: such a network trains without a long warm-up (Xiong et al.
2020, "On Layer Normalization in the Transformer Architecture", arXiv:2002.04745). Positions are learned: windows
have one length.

Shape legend: N windows, T rows, F features, D units of the model.
"""

from __future__ import annotations

import torch
from torch import nn

MODEL_UNITS = 32
HEADS = 4
FEED_FORWARD = 2  # times the units of the model; the paper has 4, for far more data


class Transformer(nn.Module):
    """An encoder whose answer is read off the last row, which has attended to all others."""

    def __init__(self, features: int, window: int, outputs: int, units: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Linear(features, units)
        self.positions = nn.Parameter(torch.randn(1, window, units) * 0.02)  # deviation of BERT, arXiv:1810.04805
        layer = nn.TransformerEncoderLayer(
            units, HEADS, FEED_FORWARD * units, dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(units), enable_nested_tensor=False)
        self.head = nn.Linear(units, outputs)

    def forward(self, windows_NTF: torch.Tensor) -> torch.Tensor:
        """Float N x window x features to N x outputs."""
        states_NTD = self.encoder(self.embedding(windows_NTF) + self.positions)
        answers: torch.Tensor = self.head(states_NTD[:, -1])
        return answers


def transformer(
    features: int, window: int, outputs: int, width: float = 1.0, depth: int = 1, dropout: float = 0.1
) -> Transformer:
    """The network: `depth` layers of 32 x `width` units (a multiple of its four heads)."""
    units = HEADS * max(1, round(MODEL_UNITS * width / HEADS))
    network = Transformer(features, window, outputs, units, depth, dropout)
    for layer in network.encoder.layers:  # nn.TransformerEncoder deep-copies one layer: draw each anew
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
            elif isinstance(module, nn.MultiheadAttention):
                module._reset_parameters()
    return network
