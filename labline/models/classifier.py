"""The image classifier as it is trained, exported and served: raw pixels in, logits out."""

from __future__ import annotations

import torch
from torch import nn


class ImageClassifier(nn.Module):
    """A backbone with its preprocessing and its calibration.

    Carrying both inside the module is what lets a client send raw uint8 images to the exported graph.

    `mean` and `std` are per channel, of the training images, on the 0 to 255 scale. `temperature`
    divides the logits (Guo et al. 2017, "On Calibration of Modern Neural Networks"); it is fitted on
    validation after training and never changes a decision.
    """

    mean: torch.Tensor
    std: torch.Tensor
    temperature: torch.Tensor

    def __init__(self, backbone: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1).float())
        self.register_buffer("std", std.reshape(1, -1, 1, 1).float().clamp_min(1.0))
        self.register_buffer("temperature", torch.ones(()))

    def normalize(self, images_NHWC: torch.Tensor) -> torch.Tensor:
        """uint8 NHWC pixels to float32 NCHW of about zero mean and unit variance."""
        return (images_NHWC.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def forward(self, images_NHWC: torch.Tensor) -> torch.Tensor:
        """uint8 images, N x height x width x channels, to calibrated float32 logits, N x classes."""
        logits_NK: torch.Tensor = self.backbone(self.normalize(images_NHWC))
        return logits_NK.float() / self.temperature
