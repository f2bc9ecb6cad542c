"""A small convolutional network made to train fast on a CPU.

The layout follows Keller Jordan's airbench ("94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024,
arXiv:2404.00498): a frozen convolution that whitens patches, then a few wide stages of
convolution, batch norm and ReLU. Differences that pay on a CPU: the whitening convolution has a
stride, so that no layer works at full resolution (a stride of 1 is there for a GPU, and is airbench's layout), and
ReLU replaces GELU, so that layers fold and quantize.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from labline.errors import BadInput

STAGE_WIDTHS = (64, 128, 256)
WHITENING_FILTERS = 16  # and their negatives; 32 channels fill a 512-bit vector of bfloat16
WHITENING_EPSILON = 5e-4  # airbench's regularisation of the patch covariance


def convolution_block(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution without bias, batch norm and ReLU: the one block that folds, prunes and quantizes well."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Whitening(nn.Conv2d):
    """A convolution that decorrelates patches of its input, fitted to images once and frozen from then on.

    Its filters are the leading eigenvectors of the patch covariance, each divided by the root of its
    eigenvalue, followed by their negatives, so that the ReLU after them loses nothing. Page, "How to Train
    Your ResNet 8: Bag of Tricks" (2019); Jordan, arXiv:2404.00498, section 3.2.
    """

    fitted: torch.Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        # No bias: oneDNN computes the gradient of the weights beside a bias's, here a twentieth of all training time.
        super().__init__(inputs, outputs, kernel, stride, padding=(kernel - stride) // 2, bias=False)
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, images_NCHW: torch.Tensor) -> None:
        """Take the filters from normalised training images (a few thousand suffice)."""
        kernel, filters = self.kernel_size[0], self.out_channels // 2
        patches_PD = _patches(images_NCHW, kernel).double()
        eigenvalues_D, eigenvectors_DD = torch.linalg.eigh(torch.cov(patches_PD.T))
        scales_F = (eigenvalues_D.flip(0)[:filters].clamp_min(0) + WHITENING_EPSILON).sqrt()
        filters_FD = (eigenvectors_DD.flip(1)[:, :filters] / scales_F).T
        self.weight.copy_(torch.cat([filters_FD, -filters_FD]).view_as(self.weight))
        self.weight.requires_grad_(False)
        self.fitted.fill_(True)


def fit_whitening(network: nn.Module, images_NCHW: torch.Tensor) -> None:
    """Fit the network's whitening layers, if it has any that were never fitted, to normalised training images.

    Those whose filters were loaded are frozen again: a file of weights does not say what is trained.
    """
    for layer in network.modules():
        if isinstance(layer, Whitening):
            if not layer.fitted:
                layer.fit(images_NCHW)
            layer.weight.requires_grad_(False)


def _patches(images_NCHW: torch.Tensor, kernel: int) -> torch.Tensor:
    """All non-overlapping squares of `kernel` pixels: patches x (channels * kernel * kernel)."""
    windows_NCYXHW = images_NCHW.unfold(2, kernel, kernel).unfold(3, kernel, kernel)
    return windows_NCYXHW.permute(0, 2, 3, 1, 4, 5).reshape(-1, images_NCHW.shape[1] * kernel**2)


def cnn(
    channels: int,
    classes: int,
    image_size: int,
    width: float = 1.0,
    depth: int = 1,
    stride: int = 2,
    stages: Sequence[int] = STAGE_WIDTHS,
) -> nn.Sequential:
    """The network: float N x channels x image_size x image_size to logits N x classes.

    `width` multiplies the channels of every stage, which are `stages`; `depth` is the number of blocks per stage; the
    pooling after the first block of a stage halves the resolution. `stride`, 1 or 2, is that of the whitening
    convolution, whose kernel is twice as large: with 1, the first stage sees every pixel, for four times the work.
    """
    if stride not in (1, 2):
        raise BadInput(f"[model] options.stride = {stride!r}: the whitening convolution of cnn has a stride of 1 or 2")
    lost = 2 - stride  # pixels at the border: without a stride, a kernel of two cannot be centred
    smallest = stride * 2 ** len(stages) + lost
    if image_size < smallest:
        raise BadInput(f"cnn needs images of at least {smallest} pixels, not {image_size}; use resnet")
    filters = min(WHITENING_FILTERS, channels * (2 * stride) ** 2)
    stem = Whitening(channels, 2 * filters, 2 * stride, stride)
    layers: OrderedDict[str, nn.Module] = OrderedDict(whitening=stem, whitening_relu=nn.ReLU(inplace=True))
    inputs = stem.out_channels
    for stage, base in enumerate(stages, start=1):
        outputs = max(8, round(base * width))
        more = [convolution_block(outputs, outputs) for _ in range(depth - 1)]
        layers[f"stage{stage}"] = nn.Sequential(convolution_block(inputs, outputs), nn.MaxPool2d(2), *more)
        inputs = outputs
    # Global max-pooling, as in airbench: here worth a point of validation accuracy over the average.
    layers["pool"] = nn.MaxPool2d((image_size - lost) // (stride * 2 ** len(stages)))
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)
