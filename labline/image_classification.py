"""Image classification as the training loop sees it: batches, augmentation, cross entropy, validation, calibration.

Shape legend: N samples, H x W pixels, C channels, K classes, B samples of a batch, S of them here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import nn

from labline.augmentation import augment, mix, mixes
from labline.data.dataset import MappedImages
from labline.devices import choose_device
from labline.distribution import ALONE, Distribution
from labline.draws import Draws
from labline.errors import BadInput
from labline.evaluation import classification_metrics
from labline.models.classifier import ImageClassifier
from labline.models.cnn import fit_whitening

if TYPE_CHECKING:
    from labline.usecase import Augmentation, Metric, Training

METRICS: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc")
Images = npt.NDArray[np.uint8] | MappedImages
Samples = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
SomeSamples = tuple[Images, npt.NDArray[np.int64]]  # Samples, or those that are read when they are asked for

WHITENING_SAMPLES = 5000  # of airbench, Jordan 2024, arXiv:2404.00498
PIECE = 4096  # images that are read at once
RESIDENT_SHARE = 0.5  # of the GPU's free memory that training images may take


class ImageClassification:
    """Uint8 N x H x W x C images and int64 class indices, as a `labline.training.Objective`.

    Raises BadInput where samples and network do not fit together.
    """

    unit = "images"
    metrics: Mapping[str, Literal["higher", "lower"]] = dict.fromkeys(METRICS, "higher")

    def __init__(
        self,
        backbone: nn.Module,
        train: SomeSamples,
        validation: SomeSamples,
        settings: Training,
        augmentation: Augmentation | None,
        device: torch.device,
        distribution: Distribution = ALONE,
    ) -> None:
        self.classes = _check(backbone, train, validation, settings)
        self.distribution = distribution
        self.train, self.validation, self.settings = train, validation, settings
        self.policy, self.strength = (augmentation.policy, augmentation.strength) if augmentation else ([], 0.0)
        self.device, self.samples, self.epoch = device, len(train[1]), 0
        self.select: str = settings.select
        model = ImageClassifier(backbone, *_pixel_statistics(train[0], distribution)).to(device)
        self.model = model.to(memory_format=torch.channels_last)
        self.backbone = model.backbone
        self.images_NHWC = _resident(train[0], device)
        self.targets_N = torch.from_numpy(np.ascontiguousarray(train[1]))
        self.class_weights_K = class_weights(self.targets_N, self.classes)
        # Of each image, whether the first epoch mirrors it; every other epoch then shows its other side.
        self.mirrored_N = torch.rand(self.samples, generator=torch.Generator().manual_seed(settings.seed)) < 0.5
        some_N = torch.arange(0, self.samples, -(-self.samples // WHITENING_SAMPLES))  # of all classes, where sorted
        fit_whitening(backbone, model.normalize(self._images(some_N)))

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """Positions of one epoch: shuffled, or drawn with every class equally likely."""
        self.epoch = epoch
        if self.settings.imbalance == "sampler":
            return balanced_order(self.targets_N, self.class_weights_K, generator)
        return torch.randperm(self.samples, generator=generator, device=generator.device)

    def batch(self, positions_B: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised, augmented float images, channels last, with class indices or probabilities: this process's share.

        Images are mixed with those before them in the batch. The one before the share is read too, and left out then.
        """
        policy, strength, share = self.policy, self.strength, self.distribution.share(len(positions_B))
        before = 1 if len(share) < len(positions_B) and mixes(policy, strength) else 0
        rows_S = torch.arange(share.start - before, share.stop) % len(positions_B)
        mine_S = positions_B[rows_S]
        draws = Draws(generator, len(positions_B), rows_S if len(share) < len(positions_B) else None)
        images_SCHW = self.model.normalize(self._images(mine_S))
        images_SCHW = augment(images_SCHW, policy, strength, draws, self._mirrored(mine_S))
        targets = self.targets_N[mine_S].to(self.device)
        images_SCHW, targets = mix(images_SCHW, targets, self.classes, policy, strength, generator)
        return images_SCHW[before:].contiguous(memory_format=torch.channels_last), targets[before:]

    def _images(self, positions_B: torch.Tensor) -> torch.Tensor:
        """Raw training images on the device."""
        if isinstance(self.images_NHWC, torch.Tensor):
            return self.images_NHWC[positions_B.to(self.images_NHWC.device)].to(self.device)
        return torch.from_numpy(self.images_NHWC[positions_B.numpy()]).to(self.device)

    def _mirrored(self, positions_B: torch.Tensor) -> torch.Tensor | None:
        """Alternating flip of Jordan 2024 (arXiv:2404.00498, section 3.6): two epochs show both sides of all images.

        Chance shows one side twice to half of them. Where images are drawn anew, some many times, it is left to chance.
        """
        if self.settings.imbalance == "sampler":
            return None
        return (self.mirrored_N[positions_B] ^ (self.epoch % 2 == 1)).to(self.device)

    def loss(self, logits_BK: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy in nats, with the declared smoothing and class weights."""
        return F.cross_entropy(
            logits_BK,
            targets,
            weight=self.class_weights_K.to(self.device) if self.settings.imbalance == "weighted-loss" else None,
            label_smoothing=self.settings.label_smoothing,
        )

    def validation_batches(self) -> Iterator[torch.Tensor]:
        """Raw images of the validation split: of its batches, every `size`-th."""
        images, mine = self.validation[0], slice(self.distribution.rank, None, self.distribution.size)
        return (_tensor(images[start : start + 1000]) for start in _starts(images, 1000)[mine])

    def validate(self, logits_NK: torch.Tensor) -> dict[str, float]:
        """`loss` and every metric of the validation split."""
        figures = classification_metrics(logits_NK.double().softmax(dim=1).numpy(), self.validation[1])
        return {"loss": figures["log_loss"], **{name: figures[name] for name in self.metrics}}

    def finish(self) -> None:
        """Bring the model to the CPU and calibrate it."""
        model = self.model.cpu().to(memory_format=torch.contiguous_format).eval()
        images, targets_N = self.validation
        model.temperature.fill_(fit_temperature(predict_logits(model, images), targets_N))

    def identity(self) -> Iterator[bytes | memoryview]:
        """All that decides the result beside settings and network."""
        yield repr((self.policy, self.strength)).encode()
        for images, targets in (self.train, self.validation):
            yield repr(images.shape).encode()
            yield from (np.ascontiguousarray(some).data for some in _pieces(images, self.distribution))
            yield np.ascontiguousarray(targets).data


def predict_logits(
    model: ImageClassifier, images: Images, batch_size: int = 512, device: str = "cpu"
) -> npt.NDArray[np.float32]:
    """Calibrated float32 logits N x K of uint8 N x H x W x C images; the model is left on `device`, evaluating."""
    target = choose_device(device)
    model = model.to(target).eval()
    with torch.inference_mode():
        batches = [
            model(_tensor(images[start : start + batch_size]).to(target)) for start in _starts(images, batch_size)
        ]
    return torch.cat(batches).cpu().numpy()


def fit_temperature(logits_NK: npt.NDArray[np.float32], targets_N: npt.NDArray[np.int64]) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al. 2017, arXiv:1706.04599).

    Targets are smoothed by Laplace's rule of succession, in the spirit of Platt 1999 ("Probabilistic outputs
    for support vector machines", section 2.2), so that a faultless validation split does not ask for
    infinite confidence. The answer lies within 0.05 and 20.
    """
    logits, targets = torch.from_numpy(logits_NK).double(), torch.from_numpy(targets_N)
    smoothing = logits.shape[1] / (len(logits) + logits.shape[1])

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), targets, label_smoothing=smoothing).item()

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
    return math.exp(found.x)


def class_weights(targets_N: torch.Tensor, classes: int) -> torch.Tensor:
    """Weights inverse to class frequency, 1 for a class of average size (King and Zeng 2001, as in scikit-learn)."""
    counts_K = torch.bincount(targets_N, minlength=classes).clamp_min(1)
    return len(targets_N) / (classes * counts_K.float())


def balanced_order(targets_N: torch.Tensor, class_weights_K: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """N positions drawn with replacement, every class equally likely."""
    weights_N = class_weights_K[targets_N].to(generator.device)
    return torch.multinomial(weights_N, len(targets_N), replacement=True, generator=generator)


def _pixel_statistics(images_NHWC: Images, distribution: Distribution) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation per channel, from exact counts of the 256 pixel values in everyone's share."""
    values, channels = np.arange(256.0), range(images_NHWC.shape[-1])
    counted_CV = np.zeros((len(channels), 256), np.int64)
    for some_NHWC in _pieces(images_NHWC, distribution):
        counted_CV += np.stack([np.bincount(some_NHWC[..., c].ravel(), minlength=256) for c in channels])
    counts_CV = distribution.add(torch.from_numpy(counted_CV)).numpy()
    shares_CV = counts_CV / counts_CV.sum(axis=1, keepdims=True)
    mean_C = shares_CV @ values
    std_C = np.sqrt(shares_CV @ values**2 - mean_C**2)
    return torch.from_numpy(mean_C).float(), torch.from_numpy(std_C).float()


def _check(backbone: nn.Module, train: SomeSamples, validation: SomeSamples, settings: Training) -> int:
    """The number of classes the network tells apart; raises BadInput where data and network do not fit."""
    for name, (images, targets) in (("train", train), ("validation", validation)):
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(targets) or len(images) == 0:
            raise BadInput(
                f"the {name} split has images {images.dtype} {images.shape} and {len(targets)} targets; expected "
                "uint8 N x height x width x channels with N targets and N > 0; look at the split shares in [data]"
            )
    _, height, width, channels = train[0].shape
    with torch.no_grad():
        network = copy.deepcopy(backbone).cpu().eval()
        classes = network(torch.zeros(2, channels, height, width)).shape[1]
    largest = int(max(train[1].max(), validation[1].max()))
    if largest >= classes:
        raise BadInput(f"the network tells {classes} classes apart, but the data has class index {largest}; rebuild it")
    if settings.select == "roc_auc" and len(np.unique(validation[1])) < 2:
        raise BadInput('[training] select = "roc_auc" needs two classes in the validation split; use accuracy')
    return int(classes)


def _pieces(images: Images, distribution: Distribution) -> Iterator[npt.NDArray[np.uint8]]:
    """This process's share of the images, a few at a time."""
    share = distribution.share(len(images))
    return (images[start : min(start + PIECE, share.stop)] for start in share[::PIECE])


def _resident(images: Images, device: torch.device) -> torch.Tensor | Images:
    """The images on a GPU that has room for them, so that no step waits for a copy; where they are otherwise.

    What is read from disk when asked for stays there.
    """
    if not isinstance(images, np.ndarray):
        return images
    images_NHWC = _tensor(images)
    if device.type != "cuda" or images_NHWC.numel() > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return images_NHWC
    return images_NHWC.to(device)


def _tensor(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images))


def _starts(images: Images, batch_size: int) -> range:
    return range(0, max(len(images), 1), batch_size)  # no images make one empty batch
