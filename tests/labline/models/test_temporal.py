"""The temporal convolutional network: it sees the whole window, and no row sees a later one."""

from __future__ import annotations

import pytest
import torch

from labline.models.temporal import tcn


@pytest.mark.parametrize("depth", [1, 2])
def test_no_row_knows_a_later_one(depth: int) -> None:
    blocks = tcn(features=3, window=20, outputs=1, depth=depth).eval().blocks
    rows = torch.randn(2, 3, 20)
    changed = rows.clone()
    changed[:, :, 12:] += 5
    before, after = blocks(rows), blocks(changed)
    assert torch.equal(before[:, :, :12], after[:, :, :12])
    assert not torch.equal(before[:, :, 12:], after[:, :, 12:])


@pytest.mark.parametrize("window", [1, 2, 7, 20, 64])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_last_row_reaches_back_to_the_first(window: int, depth: int) -> None:
    network = tcn(2, window, 1, depth=depth).eval()
    windows = torch.randn(8, window, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(windows).sum(), windows)
    assert gradient[:, 0].abs().max() > 0
