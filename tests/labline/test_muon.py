"""Muon: orthogonal steps for matrices, SGD's for the rest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labline.muon import Muon, orthogonalize


@given(st.integers(2, 40), st.integers(2, 40), st.floats(1e-3, 1e3))
def test_all_directions_of_a_matrix_come_to_count_about_the_same(rows: int, columns: int, size: float) -> None:
    left, _ = torch.linalg.qr(torch.randn(rows, min(rows, columns), generator=torch.Generator().manual_seed(rows)))
    right, _ = torch.linalg.qr(torch.randn(columns, min(rows, columns), generator=torch.Generator().manual_seed(1)))
    strengths = torch.linspace(0.3, 1, min(rows, columns)) * size  # the weakest direction has a third of the strongest
    orthogonal = orthogonalize(left @ torch.diag(strengths) @ right.T, torch.float32)
    inner = left.T @ orthogonal @ right  # diagonal: the directions themselves are kept
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), atol=1e-3, rtol=0)
    assert inner.diagonal().min() > 0.5
    assert inner.diagonal().max() < 1.3


def test_what_is_not_marked_moves_as_sgd_moves_it() -> None:
    ours, theirs = torch.ones(3, 4), torch.ones(3, 4)
    muon = Muon([{"params": [ours.requires_grad_()]}], lr=0.1, momentum=0.9)
    sgd = torch.optim.SGD([theirs.requires_grad_()], lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(5):
        for weights, optimizer in ((ours, muon), (theirs, sgd)):
            weights.grad = weights.detach().cumsum(0)
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_a_matrix_of_its_output_channels(memory_format: torch.memory_format) -> None:
    weights = torch.zeros(8, 3, 5, 5).to(memory_format=memory_format).requires_grad_()
    gradient = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    weights.grad = gradient.to(memory_format=memory_format)
    Muon([{"params": [weights], "orthogonal": True}], lr=1.0, momentum=0.0).step()
    torch.testing.assert_close(weights.detach().flatten(1), -orthogonalize(gradient.flatten(1), torch.float32))


def test_weight_decay_takes_a_share_of_every_weight() -> None:
    weights = torch.full((4, 4), 2.0, requires_grad=True)
    weights.grad = torch.zeros(4, 4)
    Muon([{"params": [weights], "weight_decay": 0.5}], lr=0.1, momentum=0.9).step()
    torch.testing.assert_close(weights.detach(), torch.full((4, 4), 1.9))
