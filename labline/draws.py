"""Random numbers for the samples of a batch, of which this process may have some alone.

They are drawn for all of the batch, and those for the samples at hand are kept: each sample gets the numbers that it
would get if one process had the whole batch.

Shape legend: N samples at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Draws:
    """`rows` are the places in a batch of `batch` samples of those at hand; None: all of them."""

    generator: torch.Generator
    batch: int
    rows: torch.Tensor | None = None

    def uniform(self, *shape: int) -> torch.Tensor:
        """Between 0 and 1, N x shape, on the generator's device."""
        return self._mine(torch.rand(self.batch, *shape, generator=self.generator, device=self.generator.device))

    def normal(self, *shape: int) -> torch.Tensor:
        """Of mean 0 and variance 1, N x shape."""
        return self._mine(torch.randn(self.batch, *shape, generator=self.generator, device=self.generator.device))

    def integers(self, below: int) -> torch.Tensor:
        """From 0 on, N."""
        device = self.generator.device
        return self._mine(torch.randint(below, (self.batch,), generator=self.generator, device=device))

    def _mine(self, drawn: torch.Tensor) -> torch.Tensor:
        return drawn if self.rows is None else drawn[self.rows.to(drawn.device)]
