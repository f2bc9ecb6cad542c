"""`build_series`: what all networks for series have in common."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from labline.errors import BadInput
from labline.models import SERIES_ARCHITECTURES, build_series


@pytest.mark.parametrize("architecture", SERIES_ARCHITECTURES)
@pytest.mark.parametrize(("features", "window", "outputs"), [(1, 1, 1), (8, 20, 2), (3, 65, 7)])
def test_shipped_networks_take_short_and_long_windows(
    architecture: str, features: int, window: int, outputs: int
) -> None:
    network = build_series(architecture, features, window, outputs)
    assert network(torch.randn(4, window, features)).shape == (4, outputs)


@pytest.mark.parametrize("architecture", SERIES_ARCHITECTURES)
def test_width_and_depth_make_a_network_larger(architecture: str) -> None:
    def size(width: float, depth: int) -> int:
        return sum(p.numel() for p in build_series(architecture, 8, 20, 2, width, depth).parameters())

    assert size(0.5, 1) < size(1, 1) < size(1, 2)


@pytest.mark.parametrize("architecture", SERIES_ARCHITECTURES)
def test_the_seed_decides_the_weights(architecture: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        return nn.utils.parameters_to_vector(build_series(architecture, 3, 10, 2, seed=seed).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("architecture", SERIES_ARCHITECTURES)
def test_the_answer_depends_on_old_and_new_rows_and_on_their_order(architecture: str) -> None:
    network = build_series(architecture, 2, 20, 1).eval()
    windows = torch.randn(1, 20, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(windows).sum(), windows)
    assert gradient[0, 0].abs().max() > 0
    assert gradient[0, -1].abs().max() > 0
    assert not torch.allclose(network(windows), network(windows.flip(1)))


class OnlyTheLast(nn.Module):
    def __init__(self, features: int, outputs: int, answers: int = 0) -> None:
        super().__init__()
        self.head = nn.Linear(features, answers or outputs)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.head(windows[:, -1])


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("own_series_networks")
    module.OnlyTheLast = OnlyTheLast  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_series_networks", module)


def test_own_network_gets_what_its_signature_names() -> None:
    assert build_series("own_series_networks:OnlyTheLast", 3, 10, 2)(torch.zeros(4, 10, 3)).shape == (4, 2)


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("lsmt", {}, "did you mean 'lstm'"),
        ("resnet", {}, "valid names|did you mean"),
        ("gru", {"droput": 0.1}, "options.droput is no argument of gru"),
        ("own_series_networks:OnlyTheLast", {"answers": 3}, r"expected one value for each of the 2 outputs: \(2, 2\)"),
    ],
)
def test_what_cannot_be_built_is_refused(architecture: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build_series(architecture, 3, 10, 2, options=options)


def test_a_width_in_units_is_refused() -> None:
    with pytest.raises(BadInput, match="width = 64 multiplies the units"):
        build_series("gru", 3, 10, 2, width=64)
