"""A residual network for small images (He et al. 2015, "Deep Residual Learning", arXiv:1512.03385).

Its shortcuts average before they project, as ResNet-D's do (He et al. 2018, "Bag of Tricks for Image
Classification", arXiv:1812.01187): a strided 1x1 convolution throws three pixels of four away.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

STAGE_WIDTHS = (32, 64, 128)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to their input; pooling and a 1x1 convolution fit it where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.convolution2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU(inplace=True)
        same_shape = inputs == outputs and stride == 1
        projection: list[nn.Module] = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        if stride > 1:
            projection.insert(0, nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        self.shortcut: nn.Module = nn.Identity() if same_shape else nn.Sequential(*projection)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Float N x inputs x H x W to N x outputs x H/stride x W/stride."""
        residual = self.relu1(self.norm1(self.convolution1(images_NCHW)))
        residual = self.norm2(self.convolution2(residual))
        summed: torch.Tensor = self.relu2(residual + self.shortcut(images_NCHW))
        return summed


def resnet(channels: int, classes: int, image_size: int, width: float = 1.0, depth: int = 1) -> nn.Sequential:
    """The network: float N x channels x image_size x image_size to logits N x classes.

    Images of 48 pixels and more are halved by the first convolution. `width` multiplies the channels of
    every stage, `depth` is the number of residual blocks per stage.
    """
    widths = [max(8, round(base * width)) for base in STAGE_WIDTHS]
    stem = nn.Conv2d(channels, widths[0], 3, stride=1 if image_size < 48 else 2, padding=1, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(stem, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
    )
    inputs = widths[0]
    for stage, outputs in enumerate(widths, start=1):
        first = ResidualBlock(inputs, outputs, stride=1 if stage == 1 else 2)
        layers[f"stage{stage}"] = nn.Sequential(first, *(ResidualBlock(outputs, outputs, 1) for _ in range(depth - 1)))
        inputs = outputs
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)
