"""Recurrent networks: the layer that was asked for, read from the first row to the last."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labline.models.recurrent import gru, lstm, rnn


@pytest.mark.parametrize(("network", "layer"), [(rnn, nn.RNN), (gru, nn.GRU), (lstm, nn.LSTM)])
def test_width_and_depth_are_units_and_layers(network: object, layer: type[nn.RNNBase]) -> None:
    layers = network(features=5, window=10, outputs=2, width=0.5, depth=3).layers  # type: ignore[operator]
    assert isinstance(layers, layer)
    assert (layers.input_size, layers.hidden_size, layers.num_layers) == (5, 16, 3)


@pytest.mark.parametrize("network", [rnn, gru, lstm])
def test_windows_of_a_batch_do_not_see_each_other(network: object) -> None:
    built = network(features=3, window=10, outputs=2)  # type: ignore[operator]
    windows = torch.randn(6, 10, 3)
    torch.testing.assert_close(built(windows)[2:3], built(windows[2:3]))
