"""Data-parallel training: what a training loop asks of the processes that train together.

Every process holds the whole network and its share of every batch. Outputs are put together before the loss is
taken, batch norm takes its statistics over all shares, and gradients are summed: each step is that of one process with
the whole batch, but for the order in which floats are added, whatever the loss and however unequal the shares.

Dropout alone draws in each process for itself: what one process would have drawn for the whole batch is not repeated.

Shape legend: B samples of a batch, R processes, C channels, P numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

Anything = TypeVar("Anything")


class Distribution(Protocol):
    """The processes that train together, of which this is number `rank` of `size`, counted from 0."""

    rank: int
    size: int

    def share(self, samples: int) -> range:
        """Which of so many samples are this process's: a stretch, as long as the others' or one longer."""

    def whole(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and targets of all of a batch from those of each share; gradients flow to this process's alone."""

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every gradient the sum of all processes'."""

    def add(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' tensors of one shape."""

    def collect(self, mine: Anything) -> Sequence[Anything]:
        """What each process has, in their order."""

    def from_first(self, make: Callable[[], Anything]) -> Anything:
        """What the first process makes."""

    def statistics(self) -> AbstractContextManager[object]:
        """Inside, batch norm sees the whole batch."""


class Alone:
    """One process, which has everything."""

    rank = 0
    size = 1

    def share(self, samples: int) -> range:
        """All."""
        return range(samples)

    def whole(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As they are."""
        return outputs, targets

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """As they are."""

    def add(self, numbers: torch.Tensor) -> torch.Tensor:
        """As they are."""
        return numbers

    def collect(self, mine: Anything) -> Sequence[Anything]:
        """This process's alone."""
        return [mine]

    def from_first(self, make: Callable[[], Anything]) -> Anything:
        """Made here."""
        return make()

    def statistics(self) -> AbstractContextManager[object]:
        """Nothing to do."""
        return nullcontext()


ALONE = Alone()


class Ranked:
    """One of the processes of torch's default process group, which must be there.

    Gradients go in one message after the backward pass, and not in several during it as torch's
    DistributedDataParallel sends them: then what is added in which order depends on nothing but the shares, and a
    resumed run computes to the bit what an uninterrupted one does.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def share(self, samples: int) -> range:
        """The stretch of this rank."""
        return range(samples * self.rank // self.size, samples * (self.rank + 1) // self.size)

    def whole(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Every process then has all rows, and computes the same loss of them."""
        rows_R = torch.zeros(self.size, dtype=torch.long, device=outputs.device)
        rows_R[self.rank] = len(outputs)
        dist.all_reduce(rows_R)
        start, batch = int(rows_R[: self.rank].sum()), int(rows_R.sum())
        together: torch.Tensor = _Whole.apply(outputs, start, batch)
        return together, _whole(targets, start, batch)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """In one message."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        summed_P = self.add(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(summed_P, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def add(self, numbers: torch.Tensor) -> torch.Tensor:
        """The same on every process, to the bit."""
        summed = numbers.clone()
        dist.all_reduce(summed)
        return summed

    def collect(self, mine: Anything) -> Sequence[Anything]:
        """Pickled."""
        everyones: list[Any] = [None] * self.size
        dist.all_gather_object(everyones, mine)
        return everyones

    def from_first(self, make: Callable[[], Anything]) -> Anything:
        """Pickled; nobody else makes any."""
        made: list[Any] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(made, src=0)
        first: Anything = made[0]
        return first

    def statistics(self) -> AbstractContextManager[object]:
        """torch's SyncBatchNorm does this for layers on a GPU; this one for every call of batch norm, on a CPU too."""
        return _WholeBatchNorm(self)


def _whole(rows: torch.Tensor, start: int, batch: int) -> torch.Tensor:
    """Rows of all processes, each of which has those from its own start on: B x …."""
    together = rows.new_zeros(batch, *rows.shape[1:])
    together[start : start + len(rows)] = rows
    dist.all_reduce(together)
    return together


class _Whole(torch.autograd.Function):
    """`_whole`, through which gradients flow to one's own rows."""

    @staticmethod
    def forward(context: Any, outputs: torch.Tensor, start: int, batch: int) -> torch.Tensor:
        context.rows = slice(start, start + len(outputs))
        return _whole(outputs, start, batch)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient[context.rows], None, None


class _BatchNorm(torch.autograd.Function):
    """Batch norm over all processes' shares, by torch's kernels for statistics that are given.

    Backward is that with constant statistics, less what flows through them: for a channel with scale w / s and
    normalised inputs z, dx = w / s (dy - mean(dy) - z mean(z dy)), Ioffe and Szegedy 2015 (arXiv:1502.03167). The means
    are over all shares.
    """

    @staticmethod
    def forward(
        context: Any,
        inputs: torch.Tensor,
        weight_C: torch.Tensor | None,
        bias_C: torch.Tensor | None,
        eps: float,
        ranked: Ranked,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Outputs, and of all shares the numbers a channel, their mean and their variance."""
        samples, mean_C, var_C = _moments(inputs, ranked)
        outputs = torch.native_batch_norm(inputs, weight_C, bias_C, mean_C, var_C, False, 0.0, eps)[0]
        context.save_for_backward(inputs, weight_C, samples, mean_C, var_C)
        context.eps, context.ranked = eps, ranked
        context.mark_non_differentiable(samples, mean_C, var_C)
        return outputs, samples, mean_C, var_C

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor, *unused: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight_C, samples, mean_C, var_C = context.saved_tensors
        nothing_C = mean_C.new_empty(0)
        constant, to_weight_C, to_bias_C = torch.ops.aten.native_batch_norm_backward(
            gradient, inputs, weight_C, mean_C, var_C, nothing_C, nothing_C, False, context.eps, [True, True, True]
        )
        sums_2C = context.ranked.add(torch.stack([to_bias_C, to_weight_C]).float()) / samples
        deviation_C = (var_C + context.eps).sqrt()
        scale_C = (1.0 if weight_C is None else weight_C) / deviation_C
        slope_C = scale_C * sums_2C[1] / deviation_C
        shift_C = scale_C * sums_2C[0] - slope_C * mean_C
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        # In place, and in the inputs' precision: this is the one part that reads and writes all of them once more.
        flowing = torch.addcmul(shift_C.view(shape).to(inputs.dtype), inputs, slope_C.view(shape).to(inputs.dtype))
        given = context.needs_input_grad
        return constant.sub_(flowing), to_weight_C if given[1] else None, to_bias_C if given[2] else None, None, None


def _moments(inputs: torch.Tensor, ranked: Ranked) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How many numbers a channel has over all processes, their mean and their variance, C, in float32.

    From the moments of each share (Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance"):
    one message, and no difference of large sums.
    """
    channels = inputs.shape[1]
    unused_2C = torch.ones(2, channels, device=inputs.device)  # running statistics, float32: what is taken is too
    mean_C, var_C = torch.batch_norm_update_stats(inputs, unused_2C[0], unused_2C[1], 0.0)
    mine_RC = torch.zeros(ranked.size, 2 * channels + 1, device=inputs.device)
    mine_RC[ranked.rank] = torch.cat([mean_C, var_C, mean_C.new_tensor([inputs.numel() / channels])])
    mean_RC, var_RC, samples_R1 = torch.split(ranked.add(mine_RC), [channels, channels, 1], dim=1)
    samples = samples_R1.sum()
    mean_C = (samples_R1 * mean_RC).sum(dim=0) / samples
    return samples, mean_C, (samples_R1 * (var_RC + (mean_RC - mean_C).square())).sum(dim=0) / samples


class _WholeBatchNorm(TorchFunctionMode):
    """Catches calls, not layers: the network is left as it is, and its state has the names that it always has."""

    def __init__(self, ranked: Ranked) -> None:
        super().__init__()
        self.ranked = ranked

    def __torch_function__(  # type: ignore[no-untyped-def]
        self, function, types, args=(), kwargs=None
    ) -> Any:
        if function is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        inputs: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        """As `torch.nn.functional.batch_norm`, with its names: inputs are B x C or B x C x …, all else C."""
        if not training:
            return F.batch_norm(inputs, running_mean, running_var, weight, bias, training, momentum, eps)
        normed: Any = _BatchNorm.apply(inputs, weight, bias, eps, self.ranked)
        outputs: torch.Tensor = normed[0]
        samples, mean_C, var_C = normed[1:]
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
                running_var.lerp_((var_C * samples / (samples - 1)).to(running_var.dtype), momentum)
        return outputs
