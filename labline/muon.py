"""Muon: Nesterov momentum whose step of every hidden matrix is made orthogonal.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"
(https://kellerjordan.github.io/posts/muon/), with which airbench trains CIFAR-10. `torch.optim.Muon` takes
weights of two dimensions alone; here a convolution's four are seen as output channels x all else.

Shape legend: O output channels, I weights of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

ITERATIONS = 3  # as airbench; five, of the first description, train no better and cost more
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: small singular values grow fastest


def orthogonalize(matrix_OI: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A matrix of the same singular vectors whose singular values, but for the smallest, are near one.

    By Newton-Schulz iterations computed in `dtype`: products alone, so that it is fast in bfloat16. The answer has
    the type of the input.
    """
    linear, cubic, quintic = COEFFICIENTS
    tall = matrix_OI.shape[0] > matrix_OI.shape[1]  # the products are of the smaller side
    x: torch.Tensor = (matrix_OI.T if tall else matrix_OI).to(dtype)
    x = x / (torch.linalg.vector_norm(x) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = linear * x + (cubic * gram + quintic * gram @ gram) @ x
    return (x.T if tall else x).to(matrix_OI.dtype)


class Muon(torch.optim.Optimizer):
    """One optimizer for all of a network: groups marked `orthogonal` take orthogonal steps, the others SGD's.

    A group has `lr`, `momentum`, `weight_decay` and `orthogonal`. Weight decay is decoupled: each step takes the
    share lr * weight_decay off a weight. `dtype` is that of the Newton-Schulz iterations.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, momentum: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient; there is no use for a closure."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(self._direction(parameter, group), alpha=-group["lr"])

    def _direction(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum: torch.Tensor = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        ahead: torch.Tensor = gradient.add(momentum, alpha=group["momentum"])
        if not group["orthogonal"]:
            return ahead
        matrix_OI = ahead.flatten(1)
        scale = max(1.0, matrix_OI.shape[0] / matrix_OI.shape[1]) ** 0.5  # of Jordan et al., for tall matrices
        direction: torch.Tensor = orthogonalize(matrix_OI, self.dtype).view_as(ahead) * scale
        return direction
