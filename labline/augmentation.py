"""Random image transforms for training: batched, on the training device, each sample its own draw.

Every transform takes and returns float images N x C x H x W, normalised to about zero mean and unit
variance; flips, quarter turns and crops only move pixels and take any dtype. `strength` runs from 0
(nothing) to 1; a flip or a quarter turn has no strength. All randomness comes from `generator`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from labline.draws import Draws

if TYPE_CHECKING:
    from labline.usecase import ImageTransform

Transform = Callable[[torch.Tensor, float, Draws], torch.Tensor]


def augment(
    images_NCHW: torch.Tensor,
    policy: Sequence[ImageTransform],
    strength: float,
    generator: torch.Generator | Draws,
    mirrored_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pass every image through the policy's transforms, in the fixed order of TRANSFORMS.

    `mirrored_N` says which images `flip` mirrors; without it, chance does. `mixup` and `cutmix` change labels too and
    are left to `mix`. Images that are not all of their batch come with `Draws`.
    The input is never written to.
    """
    draws = generator if isinstance(generator, Draws) else Draws(generator, len(images_NCHW))
    for name, transform in TRANSFORMS.items():
        if name == "flip" and name in policy and mirrored_N is not None:
            images_NCHW = torch.where(mirrored_N.view(-1, 1, 1, 1), images_NCHW.flip(-1), images_NCHW)
        elif name in policy:
            images_NCHW = transform(images_NCHW, strength, draws)
    return images_NCHW


def mix(
    images_NCHW: torch.Tensor,
    targets_N: torch.Tensor,
    classes: int,
    policy: Sequence[ImageTransform],
    strength: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend images, and their labels, in pairs; the targets become probabilities N x classes.

    `mixup` (Zhang et al. 2017, arXiv:1710.09412) with alpha = 0.4 x strength, `cutmix` (Yun et al. 2019,
    arXiv:1905.04899) with alpha = 2 x strength, that is their papers' 0.2 and 1 at the default strength.
    A policy with both takes one of them for each batch. Without either, everything comes back as it was.
    """
    if not mixes(policy, strength):
        return images_NCHW, targets_N
    mixers = [v2.MixUp(alpha=0.4 * strength, num_classes=classes)] if "mixup" in policy else []
    mixers += [v2.CutMix(alpha=2 * strength, num_classes=classes)] if "cutmix" in policy else []
    # torchvision draws from the global generators; ours decides what they hold, and only in here.
    seed, choice = torch.randint(2**31, (2,), generator=generator, device=generator.device).tolist()
    with torch.random.fork_rng(devices=[images_NCHW.device] if images_NCHW.is_cuda else []):
        torch.manual_seed(seed)
        mixed_NCHW, targets_NK = mixers[choice % len(mixers)](images_NCHW, targets_N)
    return mixed_NCHW, targets_NK


def mixes(policy: Sequence[ImageTransform], strength: float) -> bool:
    """Whether `mix` changes anything."""
    return strength > 0 and ("mixup" in policy or "cutmix" in policy)


@dataclass(frozen=True)
class BeforeAfter:
    """Images before and after augmentation: uint8 NHWC arrays of one shape, row by row the same sample."""

    before: npt.NDArray[np.uint8]
    after: npt.NDArray[np.uint8]


def before_after(
    images_NHWC: npt.NDArray[np.uint8], policy: Sequence[ImageTransform], strength: float, seed: int = 0
) -> BeforeAfter:
    """What the policy does to these images, for a contact sheet; of mixing, it shows the images and not the labels."""
    raw_NCHW = torch.from_numpy(np.ascontiguousarray(images_NHWC)).permute(0, 3, 1, 2).float()
    mean, std = raw_NCHW.mean(dim=(0, 2, 3), keepdim=True), raw_NCHW.std(dim=(0, 2, 3), keepdim=True).clamp_min(1.0)
    generator = torch.Generator().manual_seed(seed)
    after_NCHW = augment((raw_NCHW - mean) / std, policy, strength, generator)
    after_NCHW, _ = mix(after_NCHW, torch.zeros(len(after_NCHW), dtype=torch.long), 2, policy, strength, generator)
    pixels_NCHW = (after_NCHW * std + mean).round().clamp(0, 255).to(torch.uint8)
    return BeforeAfter(np.asarray(images_NHWC), pixels_NCHW.permute(0, 2, 3, 1).contiguous().numpy())


def flip(images_NCHW: torch.Tensor, strength: float, draws: Draws) -> torch.Tensor:
    """Mirror half of the images left to right."""
    return torch.where(_half(draws), images_NCHW.flip(-1), images_NCHW)


def flip_vertical(images_NCHW: torch.Tensor, strength: float, draws: Draws) -> torch.Tensor:
    """Mirror half of the images top to bottom."""
    return torch.where(_half(draws), images_NCHW.flip(-2), images_NCHW)


def rotate90(images_NCHW: torch.Tensor, strength: float, draws: Draws) -> torch.Tensor:
    """Turn every image by 0, 1, 2 or 3 quarters; images must be square."""
    images_NCHW = torch.where(_half(draws), images_NCHW.flip(-1).flip(-2), images_NCHW)
    return torch.where(_half(draws), images_NCHW.rot90(1, (-2, -1)), images_NCHW)


def crop(images_NCHW: torch.Tensor, strength: float, draws: Draws) -> torch.Tensor:
    """Shift every image by up to strength x a quarter of its size, the border filled by reflection.

    At the default strength this is the 4-pixel crop of He et al. 2015 (arXiv:1512.03385) on 32 pixels.
    """
    height, width = images_NCHW.shape[-2:]
    reach = round(strength * min(height, width) / 4)
    if reach == 0:
        return images_NCHW
    padded_NCHW = F.pad(images_NCHW, (reach,) * 4, mode="reflect")
    windows_NCYXHW = padded_NCHW.unfold(2, height, 1).unfold(3, width, 1)
    top_N, left_N = draws.integers(2 * reach + 1), draws.integers(2 * reach + 1)
    samples_N = torch.arange(len(images_NCHW), device=images_NCHW.device)
    return windows_NCYXHW[samples_N, :, top_N, left_N]


def affine(images_NCHW: torch.Tensor, strength: float, draws: Draws) -> torch.Tensor:
    """Turn, scale and shift every image, by up to 30 degrees, 30 % and 15 % at strength 1; borders are reflected."""
    angle_N = _signed(draws) * strength * torch.pi / 6
    scale_N = 1 + _signed(draws) * strength * 0.3
    shift_N2 = torch.stack([_signed(draws), _signed(draws)], dim=1) * strength * 0.3
    cos_N, sin_N = angle_N.cos() * scale_N, angle_N.sin() * scale_N
    rotation_N22 = torch.stack([torch.stack([cos_N, -sin_N], dim=1), torch.stack([sin_N, cos_N], dim=1)], dim=1)
    theta_N23 = torch.cat([rotation_N22, shift_N2.unsqueeze(2)], dim=2).to(images_NCHW.dtype)
    grid_NHW2 = F.affine_grid(theta_N23, list(images_NCHW.shape), align_corners=False)
    return F.grid_sample(images_NCHW, grid_NHW2, padding_mode="reflection", align_corners=False)


def photometric(images_NCHW: torch.Tensor, strength: float, draws: Draws) -> torch.Tensor:
    """Change contrast by up to a factor of 2, and brightness by up to one standard deviation, at strength 1."""
    contrast_N111 = 2 ** (_signed(draws) * strength)
    brightness_N111 = _signed(draws) * strength
    return images_NCHW * contrast_N111.view(-1, 1, 1, 1) + brightness_N111.view(-1, 1, 1, 1)


def noise(images_NCHW: torch.Tensor, strength: float, draws: Draws) -> torch.Tensor:
    """Add Gaussian noise whose deviation is drawn for each image, up to 0.4 of the images' own at strength 1."""
    deviation_N = draws.uniform() * strength * 0.4
    pattern_NCHW = draws.normal(*images_NCHW.shape[1:])
    return images_NCHW + pattern_NCHW * deviation_N.view(-1, 1, 1, 1)


def erase(images_NCHW: torch.Tensor, strength: float, draws: Draws) -> torch.Tensor:
    """Set a random square, of sides up to half the image at strength 1, to the mean of all images.

    Random erasing, Zhong et al. 2017 (arXiv:1708.04896).
    """
    height, width = images_NCHW.shape[-2:]
    side_N = draws.uniform() * strength / 2
    inside_NH = _interval(height, side_N, draws)
    inside_NW = _interval(width, side_N, draws)
    return images_NCHW.masked_fill((inside_NH[:, :, None] & inside_NW[:, None, :]).unsqueeze(1), 0.0)


# Pixels are moved before their values are changed.
TRANSFORMS: dict[ImageTransform, Transform] = {
    "flip": flip,
    "flip-vertical": flip_vertical,
    "rotate90": rotate90,
    "crop": crop,
    "affine": affine,
    "photometric": photometric,
    "noise": noise,
    "erase": erase,
}


def _half(draws: Draws) -> torch.Tensor:
    return draws.integers(2).bool().view(-1, 1, 1, 1)


def _signed(draws: Draws) -> torch.Tensor:
    return draws.uniform() * 2 - 1


def _interval(length: int, share_N: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Per sample a random stretch of `share_N` of `length` positions: boolean N x length."""
    centre_N1 = draws.uniform(1) * length
    positions_L = torch.arange(length, device=share_N.device) + 0.5
    return (positions_L - centre_N1).abs() < share_N[:, None] * length / 2
