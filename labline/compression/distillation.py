"""Knowledge distillation: a smaller network learns what a trained one answers, not only what is right.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.

Shape legend: B samples of a batch, K classes, H x W pixels, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from labline.devices import choose_device, choose_precision
from labline.image_classification import ImageClassification, Samples
from labline.models.classifier import ImageClassifier
from labline.training import Epoch, optimize
from labline.usecase import Augmentation, Training

TEMPERATURE = 2.0  # softens both answers, so that the teacher's small probabilities count
TEACHER_SHARE = 0.9  # of the loss; the rest is cross entropy with the labels


def distil(
    student: nn.Module,
    teacher: ImageClassifier,
    train: Samples,
    validation: Samples,
    settings: Training,
    augmentation: Augmentation,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> ImageClassifier:
    """Train `student` (a backbone, changed in place) on what `teacher` answers to the same augmented images.

    Samples are uint8 N x H x W x C images with int64 class indices. `checkpoint` and `on_epoch` as in
    `labline.training.optimize`: a later call with the same arguments goes on from the file. Returns the calibrated
    classifier, on the CPU, evaluating. Raises BadInput where samples and networks do not fit together, LablineError
    where the loss is not finite.
    """
    device = choose_device(settings.device)
    objective = Distillation(student, teacher, train, validation, settings, augmentation, device)
    return optimize(objective, settings, checkpoint, on_epoch).model


class Distillation(ImageClassification):
    """Image classification whose loss is mostly the divergence from a teacher's answers."""

    def __init__(
        self,
        student: nn.Module,
        teacher: ImageClassifier,
        train: Samples,
        validation: Samples,
        settings: Training,
        augmentation: Augmentation,
        device: torch.device,
    ) -> None:
        super().__init__(student, train, validation, settings, augmentation, device)
        # Both see the same pixels alike, also where the teacher went on from a version with other statistics.
        self.model.mean, self.model.std = teacher.mean.to(device), teacher.std.to(device)
        self.teacher = copy.deepcopy(teacher).to(device).to(memory_format=torch.channels_last).eval()
        self.precision = choose_precision(settings.precision, device)

    def batch(self, positions_B: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented images B x C x H x W, and B x 2K: class probabilities beside the teacher's logits."""
        images_BCHW, targets = super().batch(positions_B, generator)
        enabled = self.precision != torch.float32
        with torch.no_grad(), torch.autocast(self.device.type, dtype=self.precision, enabled=enabled):
            taught_BK = self.teacher.backbone(images_BCHW)
        targets_BK = targets.float() if targets.ndim == 2 else F.one_hot(targets, self.classes).float()
        return images_BCHW, torch.cat([targets_BK, taught_BK.float() / self.teacher.temperature], dim=1)

    def loss(self, logits_BK: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Divergence from the softened teacher, T² times so that its gradient keeps its size, and cross entropy."""
        targets_BK, taught_BK = targets[:, : self.classes], targets[:, self.classes :]
        softened_BK = F.log_softmax(logits_BK / TEMPERATURE, dim=1)
        wanted_BK = F.log_softmax(taught_BK / TEMPERATURE, dim=1)
        divergence = F.kl_div(softened_BK, wanted_BK, reduction="batchmean", log_target=True) * TEMPERATURE**2
        return TEACHER_SHARE * divergence + (1 - TEACHER_SHARE) * super().loss(logits_BK, targets_BK)

    def identity(self) -> Iterator[bytes | memoryview]:
        """All that decides the result beside settings and student."""
        yield from super().identity()
        for tensor in self.teacher.state_dict().values():
            yield tensor.cpu().contiguous().numpy().data
