"""The Transformer encoder: learned positions, layers of their own, dropout only in training."""

from __future__ import annotations

import torch

from labline.models.transformer import HEADS, transformer


def test_units_are_a_multiple_of_the_heads() -> None:
    for width in (0.05, 0.4, 1, 1.3):
        assert transformer(3, 10, 1, width).embedding.out_features % HEADS == 0


def test_every_layer_has_weights_of_its_own() -> None:
    first, second = transformer(3, 10, 1, depth=2).encoder.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    assert not torch.equal(first.self_attn.in_proj_weight, second.self_attn.in_proj_weight)


def test_dropout_acts_in_training_alone() -> None:
    network, windows = transformer(3, 10, 1, dropout=0.5), torch.randn(4, 10, 3)
    assert not torch.equal(network(windows), network(windows))
    network.eval()
    assert torch.equal(network(windows), network(windows))
