"""`build`: shipped networks, and the user's own by `module:Class`."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from labline.errors import BadInput
from labline.models import ARCHITECTURES, build
from labline.models.cnn import Whitening, fit_whitening


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "image_size"), [(1, 28), (3, 32), (1, 64), (3, 65), (3, 128)])
def test_shipped_networks_take_small_and_large_images(architecture: str, channels: int, image_size: int) -> None:
    network = build(architecture, channels, classes=6, image_size=image_size)
    assert network(torch.randn(4, channels, image_size, image_size)).shape == (4, 6)


@pytest.mark.parametrize(("channels", "image_size"), [(1, 9), (1, 28), (3, 32), (3, 33)])
def test_a_cnn_without_a_stride_sees_every_pixel(channels: int, image_size: int) -> None:
    network = build("cnn", channels, 6, image_size, options={"stride": 1})
    images = torch.randn(50, channels, image_size, image_size)
    fit_whitening(network, images)
    assert network.whitening(images).shape[2:] == (image_size - 1, image_size - 1)  # type: ignore[operator]
    assert network(images).shape == (50, 6)
    with pytest.raises(BadInput, match=r"options.stride = 3: .* a stride of 1 or 2"):
        build("cnn", 3, 6, 32, options={"stride": 3})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_width_and_depth_make_a_network_larger(architecture: str) -> None:
    def size(width: float, depth: int) -> int:
        return sum(p.numel() for p in build(architecture, 3, 10, 32, width, depth).parameters())

    assert size(0.5, 1) < size(1, 1) < size(1, 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_seed_decides_the_weights(architecture: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        return nn.utils.parameters_to_vector(build(architecture, 1, 2, 28, seed=seed).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    build("cnn", 1, 2, 28, seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_images_too_small_for_the_cnn_are_refused() -> None:
    with pytest.raises(BadInput, match="at least 16 pixels, not 12; use resnet"):
        build("cnn", 1, 2, 12)
    assert build("resnet", 1, 2, 12)(torch.zeros(2, 1, 12, 12)).shape == (2, 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_norm_always_follows_its_convolution(architecture: str) -> None:
    """Folding needs them side by side."""
    leaves = [m for m in build(architecture, 3, 10, 32).modules() if not list(m.children())]
    for before, norm in itertools.pairwise(leaves):
        if isinstance(norm, nn.BatchNorm2d):
            assert isinstance(before, nn.Conv2d)
            assert before.out_channels == norm.num_features


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_networks_export_with_a_dynamic_batch(architecture: str) -> None:
    network = build(architecture, 1, 3, 28).eval()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network, (torch.randn(2, 1, 28, 28),), dynamic_shapes=({0: batch},)).module()
    images = torch.randn(5, 1, 28, 28)
    torch.testing.assert_close(exported(images), network(images))


def test_a_fitted_whitening_decorrelates_patches_and_is_frozen() -> None:
    torch.manual_seed(0)
    images = nn.functional.avg_pool2d(torch.randn(400, 1, 34, 34), 3, stride=1)  # neighbours are correlated
    images = (images - images.mean()) / images.std()
    network = nn.Sequential(Whitening(1, 8, kernel=4, stride=4))
    fit_whitening(network, images)
    channels = network(images).transpose(0, 1).flatten(1)[:4]
    torch.testing.assert_close(torch.cov(channels), torch.eye(4), atol=0.05, rtol=0)
    assert not network[0].weight.requires_grad


def test_a_whitening_is_fitted_only_once() -> None:
    network = nn.Sequential(Whitening(1, 8, kernel=4, stride=4))
    fit_whitening(network, torch.randn(50, 1, 32, 32))
    first = network[0].weight.clone()
    fit_whitening(network, torch.randn(50, 1, 32, 32) * 3)
    assert torch.equal(first, network[0].weight)


OWN_NETWORKS = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, channels, classes, hidden=4):
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, hidden),
                                    nn.Linear(hidden, classes))
    def forward(self, images):
        return self.layers(images)

class Binary(Tiny):
    def __init__(self, channels):
        super().__init__(channels, 1)

class Broken(Tiny):
    def forward(self, images):
        raise RuntimeError("not today")

class Unbuildable(nn.Module):
    def __init__(self):
        raise ValueError("no weights here")

class NoNetwork:
    pass
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_networks.py").write_text(OWN_NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_networks"


def test_own_network_gets_what_its_signature_names(own_module: str) -> None:
    network = build(f"{own_module}:Tiny", 3, 5, 32, options={"hidden": 7})
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert network.layers[2].out_features == 7  # type: ignore[index,union-attr]


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("renset", {}, "did you mean 'resnet'"),
        ("no_such_module:Net", {}, "cannot be imported"),
        ("own_networks:Tinny", {}, "did you mean 'Tiny'"),
        ("own_networks:NoNetwork", {}, "is not a torch.nn.Module"),
        ("own_networks:Unbuildable", {}, "no weights here"),
        ("own_networks:Broken", {}, "not today"),
        ("own_networks:Binary", {}, r"expected one logit for each of the 5 classes"),
        ("own_networks:Tiny", {"hiden": 3}, "did you mean 'hidden'"),
        ("cnn", {"dropout": 0.5}, "options.dropout is no argument of cnn"),
    ],
)
def test_what_cannot_be_built_is_refused(
    own_module: str, architecture: str, options: dict[str, float], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        build(architecture, 3, 5, 32, options=options)
