"""CIFAR-10 by the recipe of airbench94, written from its description.

Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498: section 3, and the table of its
hyperparameters. Left out: the test-time views, which are no part of a model that is exported; labline has none either.

Shape legend: N images, H x W pixels, C channels, B images of a batch, K classes.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from labline.augmentation import augment
from labline.image_classification import Samples
from labline.models.cnn import Whitening

EPOCHS, BATCH = 10, 1024  # the paper stops after 9.9
WIDTHS = (64, 256, 256)
MOMENTUM = 0.85
RATE = 11.5 / (1 + 1 / (1 - MOMENTUM))  # for the mean loss of a batch of 1024; the paper's counts momentum's sum in
DECAY = 0.0153 / 11.5
BIAS_FACTOR, SMOOTHING, LOGIT_SCALE = 64.0, 0.2, 1 / 9
WHITENING_BIAS_EPOCHS = 3
LOOKAHEAD_STEPS, LOOKAHEAD_DECAY = 5, 0.95


@dataclass(frozen=True)
class Epoch:
    """Seconds of training alone, accuracy on test after it, and how many images were trained on."""

    seconds: float
    accuracy: float
    images: int


def train(
    train: Samples, test: Samples, device: torch.device, epochs: int = EPOCHS, compiled: bool = True
) -> Iterator[Epoch]:
    """Train on uint8 N x H x W x C images and int64 class indices, in half precision on a GPU; one `Epoch` each."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    pixels, targets = _resident(train, device)
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True)
    images = ((pixels - mean) / std).to(dtype)
    backbone = network(images[:5000].float().cpu()).to(device, dtype)
    run = _Run(backbone, torch.compile(backbone) if compiled else backbone, images, targets, epochs)
    shown, shown_targets = _resident(test, device)
    shown = ((shown - mean) / std).to(dtype)
    for epoch in range(epochs):
        started = _now(device)
        trained = run.epoch(epoch)
        seconds = _now(device) - started
        yield Epoch(seconds, _accuracy(backbone, shown, shown_targets), trained)


def network(images_NCHW: torch.Tensor) -> nn.Sequential:
    """The network, its first layer whitening these normalised images; channels last, float32."""
    fitted = Whitening(images_NCHW.shape[1], 24, 2, 1)
    fitted.fit(images_NCHW)
    whitening = nn.Conv2d(images_NCHW.shape[1], 24, 2)
    whitening.weight = fitted.weight
    nn.init.zeros_(cast("torch.Tensor", whitening.bias))
    layers: OrderedDict[str, nn.Module] = OrderedDict(whitening=whitening, activation=nn.GELU())
    inputs = 24
    for stage, width in enumerate(WIDTHS, start=1):
        halved = [_convolution(inputs, width), nn.MaxPool2d(2), _norm(width), nn.GELU()]
        layers[f"stage{stage}"] = nn.Sequential(*halved, _convolution(width, width), _norm(width), nn.GELU())
        inputs = width
    layers["pool"], layers["flatten"] = nn.MaxPool2d(3), nn.Flatten()
    layers["head"] = nn.Linear(inputs, 10, bias=False)
    return nn.Sequential(layers).to(memory_format=torch.channels_last)


class _Run:
    """A run under way: optimizer, Lookahead's slow weights, and how many steps are done."""

    def __init__(
        self,
        backbone: nn.Sequential,
        forward: Callable[[torch.Tensor], torch.Tensor],
        images_NCHW: torch.Tensor,
        targets_N: torch.Tensor,
        epochs: int,
    ) -> None:
        self.backbone, self.forward, self.images_NCHW, self.targets_N = backbone, forward, images_NCHW, targets_N
        self.batch, self.done = min(BATCH, len(targets_N) // 2), 0
        self.steps = epochs * (len(targets_N) // self.batch)
        trained = [p for p in backbone.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim == 1], "factor": BIAS_FACTOR},
            {"params": [p for p in trained if p.ndim > 1], "factor": 1.0},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, nesterov=True)
        self.mirrored_N = torch.rand(len(targets_N), device=targets_N.device) < 0.5
        self.slow = [value.detach().clone() for value in backbone.state_dict().values()]

    def epoch(self, epoch: int) -> int:
        """Once through the images, each mirrored in every other epoch; returns how many were used."""
        self.backbone.train()
        cast("torch.Tensor", self.backbone[0].bias).requires_grad_(epoch < WHITENING_BIAS_EPOCHS)
        order_N = torch.randperm(len(self.targets_N), device=self.targets_N.device)
        batches = torch.split(order_N, self.batch)[: len(order_N) // self.batch]
        generator = torch.Generator(order_N.device).manual_seed(epoch)
        mirrored_N111 = (self.mirrored_N ^ (epoch % 2 == 1)).view(-1, 1, 1, 1)
        for positions_B in batches:
            images_BCHW = self.images_NCHW[positions_B]
            images_BCHW = torch.where(mirrored_N111[positions_B], images_BCHW.flip(-1), images_BCHW)
            self._step(augment(images_BCHW, ["crop"], 0.25, generator), self.targets_N[positions_B])
        if self.done == self.steps:
            self._lookahead(1.0)
        return len(batches) * self.batch

    def _step(self, images_BCHW: torch.Tensor, targets_B: torch.Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * self.batch / BATCH * _triangle(self.done / self.steps) * group["factor"]
            group["weight_decay"] = DECAY / group["factor"]
        logits_BK = self.forward(images_BCHW.contiguous(memory_format=torch.channels_last)).float() * LOGIT_SCALE
        loss = F.cross_entropy(logits_BK, targets_B, label_smoothing=SMOOTHING)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.done += 1
        if self.done % LOOKAHEAD_STEPS == 0:
            self._lookahead(LOOKAHEAD_DECAY**LOOKAHEAD_STEPS * (self.done / self.steps) ** 3)

    @torch.no_grad()
    def _lookahead(self, kept: float) -> None:
        """Slow weights move to the fast ones but for `kept`, and the fast start from there (arXiv:1907.08610).

        At the end, `kept` of 1 takes the slow weights as they are.
        """
        for slow, fast in zip(self.slow, self.backbone.state_dict().values(), strict=True):
            if slow.is_floating_point():
                slow.lerp_(fast, 1 - kept)
                fast.copy_(slow)


def _triangle(progress: float) -> float:
    """From a fifth to 1 at 23 % of the steps, then down to 7 %."""
    return 0.2 + 0.8 * progress / 0.23 if progress < 0.23 else 0.07 + 0.93 * (1 - progress) / 0.77


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Without bias; its first filters pass their channels on as they are, the others as PyTorch draws them."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:inputs])
    return convolution


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def _resident(samples: Samples, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    images_NHWC, targets_N = samples
    pixels_NCHW = torch.from_numpy(images_NHWC).to(device).permute(0, 3, 1, 2).float()
    return pixels_NCHW, torch.from_numpy(targets_N).to(device)


@torch.inference_mode()
def _accuracy(backbone: nn.Module, images_NCHW: torch.Tensor, targets_N: torch.Tensor) -> float:
    backbone.eval()
    logits_NK = torch.cat([backbone(images) for images in torch.split(images_NCHW, 2000)])
    return float((logits_NK.argmax(dim=1) == targets_N).float().mean())


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
