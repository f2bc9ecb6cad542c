"""What several processes compute is what one does with all of a batch; `test_ray_training` has two of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from labline.distribution import ALONE, Alone, Ranked
from labline.image_classification import ImageClassification
from labline.series.forecasting import ArrayWindows, ForecastSettings, SeriesForecasting
from labline.training import Objective
from labline.usecase import Augmentation, Training


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranked]:
    """The only process of a real group."""
    file: Path = tmp_path_factory.mktemp("group") / "processes"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield Ranked()
    dist.destroy_process_group()


class Part(Alone):
    """One of several processes, for what needs no others: it has its share, and no more."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    share = Ranked.share  # type: ignore[assignment]


@given(st.integers(1, 9), st.integers(0, 200))
def test_shares_are_all_of_a_batch_and_alike(size: int, samples: int) -> None:
    shares = [Part(rank, size).share(samples) for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layer", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_batch_norm_is_torchs_forward_and_backward(ranked: Ranked, layer: type[nn.Module], affine: bool) -> None:
    shape = (12, 5, 7, 3)[: 2 if layer is nn.BatchNorm1d else 4]
    own, theirs = layer(5, affine=affine), layer(5, affine=affine)  # type: ignore[call-arg]
    inputs = torch.randn(shape) * 3 + 2
    answers, gradients = [], []
    for norm, context in ((own, ranked.statistics()), (theirs, torch.enable_grad())):
        seen = inputs.clone().requires_grad_()
        with context:
            answers.append(norm(seen))
        (answers[-1].sin() * torch.arange(1.0, 13).view(-1, *[1] * (len(shape) - 1))).sum().backward()
        gradients.append([seen.grad, *(parameter.grad for parameter in norm.parameters())])
    torch.testing.assert_close(answers[0], answers[1])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(own.state_dict()["running_var"], theirs.state_dict()["running_var"])
    torch.testing.assert_close(own.state_dict()["running_mean"], theirs.state_dict()["running_mean"])


def test_an_evaluating_batch_norm_takes_what_it_has_learnt(ranked: Ranked) -> None:
    norm, inputs = nn.BatchNorm2d(3).eval(), torch.randn(4, 3, 2, 2)
    expected = norm(inputs)
    with ranked.statistics():
        assert torch.equal(norm(inputs), expected)


def test_gradients_flow_to_the_rows_of_this_process(ranked: Ranked) -> None:
    outputs, targets = torch.randn(6, 2, requires_grad=True), torch.arange(6)
    together, all_targets = ranked.whole(outputs, targets)
    together.square().sum().backward()
    torch.testing.assert_close(outputs.grad, 2 * outputs.detach())
    assert torch.equal(all_targets, targets)


AUGMENTATION = Augmentation(policy=["flip", "crop", "noise", "mixup", "cutmix"], strength=0.5)
SETTINGS = Training(epochs=1)
CPU = torch.device("cpu")
POSITIONS = torch.tensor([9, 3, 17, 4, 4, 11, 0])


def assert_parts_are_the_whole(objectives: list[Objective[nn.Module]]) -> None:
    """The first has all of a batch, the others a share each."""
    batches = [one.batch(POSITIONS, torch.Generator().manual_seed(5)) for one in objectives]
    for whole, *parts in zip(*batches, strict=True):
        torch.testing.assert_close(torch.cat(parts), whole)
    outputs, *shares = [list(one.validation_batches()) for one in objectives]
    taken = [shares[turn % len(shares)][turn // len(shares)] for turn in range(len(outputs))]
    assert sum(map(len, shares)) == len(outputs) > len(shares)
    assert all(torch.equal(mine, all_of_it) for mine, all_of_it in zip(taken, outputs, strict=True))


def test_shares_of_augmented_and_mixed_images_are_the_batch() -> None:
    random = np.random.default_rng(0)
    train = random.integers(0, 256, (20, 12, 12, 3), np.uint8), np.arange(20) % 4
    validation = random.integers(0, 256, (3500, 12, 12, 3), np.uint8), np.arange(3500) % 4
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4))
    objectives = [ImageClassification(network, train, validation, SETTINGS, AUGMENTATION, CPU) for _ in range(4)]
    for rank, objective in enumerate(objectives[1:]):
        objective.distribution = Part(rank, 3)  # now, so that pixel statistics are those of everyone's share
    assert_parts_are_the_whole(objectives)


def test_shares_of_augmented_and_mixed_windows_are_the_batch() -> None:
    random = np.random.default_rng(0)
    windows = ArrayWindows(random.normal(size=(3500, 6, 2)).astype(np.float32), np.arange(3500, dtype=np.float32))
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    forecast = ForecastSettings(target="value", policy=("slicing", "jitter", "mixup"))
    assert_parts_are_the_whole(
        [
            SeriesForecasting(network, windows, windows, SETTINGS, forecast, CPU, one)
            for one in (ALONE, *(Part(rank, 3) for rank in range(3)))
        ]
    )
