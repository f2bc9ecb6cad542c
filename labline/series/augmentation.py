"""Random transforms of windows for training: batched, on the training device, each window its own draw.

Every transform takes and returns float windows N x T x F, standardised to about zero mean and unit variance.
`strength` runs from 0 (nothing) to 1. All randomness comes from `generator`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from labline.series.usecase import SeriesTransform

Transform = Callable[[torch.Tensor, float, torch.Generator], torch.Tensor]


def augment(
    windows_NTF: torch.Tensor, policy: Sequence[SeriesTransform], strength: float, generator: torch.Generator
) -> torch.Tensor:
    """Pass every window through the policy's transforms, in the fixed order of TRANSFORMS.

    `mixup` changes targets too and is left to `mix`. The input is never written to.
    """
    for name, transform in TRANSFORMS.items():
        if name in policy:
            windows_NTF = transform(windows_NTF, strength, generator)
    return windows_NTF


def mix(
    windows_NTF: torch.Tensor,
    targets: torch.Tensor,
    policy: Sequence[SeriesTransform],
    strength: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend windows, and their targets, in pairs where the policy has `mixup`.

    Zhang et al. 2017 (arXiv:1710.09412) with alpha = 0.4 x strength, each pair with a share of its own. Float
    targets, N or N x classes, are blended as they are: numbers to numbers, probabilities to probabilities.
    """
    if "mixup" not in policy or strength == 0:
        return windows_NTF, targets
    share_N = _beta(0.4 * strength, windows_NTF, generator)
    partner_N = torch.randperm(len(windows_NTF), generator=generator, device=windows_NTF.device)

    def blend(one: torch.Tensor) -> torch.Tensor:
        share = share_N.view(-1, *[1] * (one.ndim - 1))
        return share * one + (1 - share) * one[partner_N]

    return blend(windows_NTF), blend(targets)


def jitter(windows_NTF: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Add Gaussian noise of 0.2 deviations at strength 1 (Um et al. 2017, arXiv:1706.00527)."""
    noise_NTF = torch.randn(windows_NTF.shape, generator=generator, device=windows_NTF.device)
    return windows_NTF + 0.2 * strength * noise_NTF


def scaling(windows_NTF: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Multiply each feature of each window by one factor of deviation 0.2 at strength 1 (Um et al. 2017)."""
    samples, _, features = windows_NTF.shape
    factors_N1F = torch.randn(samples, 1, features, generator=generator, device=windows_NTF.device)
    return windows_NTF * (1 + 0.2 * strength * factors_N1F)


def slicing(windows_NTF: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Stretch the end of each window, at least half of it at strength 1, to the whole by linear interpolation.

    Window slicing (Le Guennec, Malinowski and Tavenard 2016, "Data Augmentation for Time Series Classification
    using Convolutional Neural Networks"), but every slice ends where its window does: the target follows that row.
    """
    samples, rows, _ = windows_NTF.shape
    kept_N1 = 1 - 0.5 * strength * torch.rand(samples, 1, generator=generator, device=windows_NTF.device)
    back_T = torch.arange(rows - 1, -1, -1, device=windows_NTF.device)
    position_NT = (rows - 1) - back_T * kept_N1
    earlier_NT = position_NT.floor().long()
    later_NT = (earlier_NT + 1).clamp_max(rows - 1)
    share_NT1 = (position_NT - earlier_NT).unsqueeze(2)
    windows_N1 = torch.arange(samples, device=windows_NTF.device).unsqueeze(1)
    earlier_NTF, later_NTF = windows_NTF[windows_N1, earlier_NT], windows_NTF[windows_N1, later_NT]
    return earlier_NTF + share_NT1 * (later_NTF - earlier_NTF)


# Rows are moved before their values are changed.
TRANSFORMS: dict[SeriesTransform, Transform] = {"slicing": slicing, "scaling": scaling, "jitter": jitter}


def _beta(alpha: float, windows_NTF: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shares of Beta(alpha, alpha), N. torch draws these from its global generator: ours decides what that holds."""
    device = windows_NTF.device
    seed = int(torch.randint(2**31, (), generator=generator, device=device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        concentration = torch.tensor(max(alpha, 1e-3), device=device)  # below it, float32 has 0 and 1 alone anyway
        return torch.distributions.Beta(concentration, concentration).sample((len(windows_NTF),))
