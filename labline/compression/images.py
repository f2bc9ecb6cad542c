"""The compression of a declared image classifier: how candidates are judged, fine-tuned and taught."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scipy.special import softmax
from torch import nn

from labline.compression.candidates import Evaluate, LogitsFunction, Quality
from labline.compression.choice import Search
from labline.compression.distillation import distil
from labline.compression.quantization_aware import RoundedActivation
from labline.compression.search import search
from labline.data.dataset import Dataset
from labline.evaluation import classification_metrics
from labline.models.classifier import ImageClassifier
from labline.models.weights import build_declared
from labline.training import Epoch
from labline.usecase import ImageUseCase

CHECKPOINT = ".checkpoint.pt"
# Of the declared epochs and learning rate. A tenth of its epochs left a pruned network 15 points short on the 1,260
# images of steel; the whole rate cost it a point on CIFAR-10, a third of the rate two points on steel.
FINETUNE_EPOCHS = 1 / 3
FINETUNE_RATE = 1 / 2
ROUNDED_RATE = 2e-3  # of Adam, which alone suits weights and the steps of activations alike

OnEpoch = Callable[[str, Epoch, int], None]  # the candidate's name, the epoch, and how many it has


@dataclass(frozen=True)
class Teaching:
    """What every training of the search is given: a teacher, its declaration and data, and a folder for checkpoints."""

    teacher: ImageClassifier
    declaration: ImageUseCase
    data: Dataset
    directory: Path
    on_epoch: OnEpoch

    def finetune(self, network: ImageClassifier, name: str) -> ImageClassifier:
        """Let a pruned or rounded network recover: as it was trained, but shorter.

        Averaged weights would still remember the damage after so few steps.
        """
        training, declared = self.declaration.training, self.declaration.compression.finetune_epochs
        epochs = math.ceil(training.epochs * FINETUNE_EPOCHS) if declared is None else declared
        if epochs == 0:
            return network
        changed: dict[str, object] = {"epochs": epochs, "warmup": 0.1, "early_stopping": 0, "ema": 0.0}
        changed |= {"learning_rate": training.learning_rate * FINETUNE_RATE, "compile": False}
        if any(isinstance(module, RoundedActivation) for module in network.modules()):
            changed |= {"optimizer": "adamw", "learning_rate": ROUNDED_RATE, "precision": "float32"}
        return self._taught(network.backbone, name, changed)

    def teach(self, width: float, name: str) -> ImageClassifier:
        """A network of that share of the declared width, taught from scratch for as long as the declared one was."""
        model = self.declaration.model.model_copy(update={"width": self.declaration.model.width * width})
        narrower = self.declaration.model_copy(update={"model": model})
        return self._taught(build_declared(narrower, len(self.data.labels)), name, {})

    def _taught(self, student: nn.Module, name: str, changed: Mapping[str, object]) -> ImageClassifier:
        settings = self.declaration.training.model_copy(update=dict(changed))
        return distil(
            student,
            self.teacher,
            self.data.split("train"),
            self.data.split("validation"),
            settings,
            self.declaration.augmentation,
            checkpoint=self.directory / f"{name}{CHECKPOINT}",
            on_epoch=lambda epoch: self.on_epoch(name, epoch, settings.epochs),
        )


def search_images(
    declaration: ImageUseCase,
    data: Dataset,
    model: ImageClassifier,
    directory: Path,
    on_epoch: OnEpoch = lambda *_: None,
    seconds: float = 1.5,
) -> Search:
    """Search for smaller versions of a trained classifier as its declaration says; see `compression.search.search`.

    Files go to `directory`. Trainings of a search that was killed go on there from their last epoch.
    """
    teaching = Teaching(model, declaration, data, directory, on_epoch)
    found = search(
        model,
        declaration.compression,
        declaration.data.image_size,
        declaration.data.channels,
        calibration_images=data.split("validation")[0],
        evaluate=judge_on_validation(declaration, data),
        finetune=teaching.finetune,
        teach=teaching.teach,
        directory=directory,
        seconds=seconds,
    )
    for checkpoint in directory.glob(f"*{CHECKPOINT}"):
        checkpoint.unlink()
    return found


def judge_on_validation(declaration: ImageUseCase, data: Dataset) -> Evaluate:
    """The metrics no candidate may lose, of a function from images to logits; the declared one first."""
    images, targets = data.split("validation")
    guarded = dict.fromkeys([declaration.training.select, "accuracy", "balanced_accuracy"])

    def evaluate(logits: LogitsFunction) -> Quality:
        logits_NC = logits(images)
        metrics = classification_metrics(softmax(logits_NC, axis=1), targets)
        return Quality({name: metrics[name] for name in guarded}, logits_NC.argmax(axis=1) == targets)

    return evaluate
