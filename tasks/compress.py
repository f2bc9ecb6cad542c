"""Compress: smaller and faster candidates, measured here, and the one that pays."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from labline.references import Candidate, CompressedModel, DatasetRef, TrainedModel
from labline.usecase import ImageUseCase
from tasks.stage import stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from labline.compression.search import Evaluate, LogitsFunction
    from labline.data.dataset import Dataset
    from labline.models.classifier import ImageClassifier


@stage(sections=("model", "training", "augmentation", "compression", "data"))
def compress(
    declaration: ImageUseCase, dataset: DatasetRef, trained: TrainedModel, *, workspace: Workspace
) -> CompressedModel:
    """Fold, quantize and prune; every candidate is judged on validation and timed on this machine."""
    from labline.compression.search import search
    from labline.data.dataset import open_dataset
    from labline.models.weights import load_classifier
    from labline.plots import pareto

    data = open_dataset(workspace.resolve(dataset.directory))
    images, _ = data.split("validation")
    model = load_classifier(workspace.resolve(trained.directory) / "model.safetensors", declaration, len(data.labels))
    found = search(
        model,
        declaration.compression,
        declaration.data.image_size,
        declaration.data.channels,
        calibration_images=images,
        evaluate=judge_on_validation(declaration, data),
        finetune=lambda pruned: _finetune(pruned, declaration, data),
        directory=workspace.path,
    )
    frame = found.candidates
    measured = frame[frame["bytes"].notna()].astype({"bytes": int})
    candidates = [Candidate.model_validate(row) for row in measured[list(Candidate.model_fields)].to_dict("records")]
    workspace.table("candidates", frame.drop(columns="path"), show=10)
    workspace.say(found.reason)
    workspace.figure("pareto", pareto(measured, declaration.training.select))
    workspace.parameters({"compression.chosen": found.chosen})
    files = "".join(hashlib.sha256((workspace.path / f"{c.name}.onnx").read_bytes()).hexdigest() for c in candidates)
    return CompressedModel(
        directory=workspace.name,
        digest=hashlib.sha256((found.chosen + files).encode()).hexdigest(),
        candidates=candidates,
        chosen=found.chosen,
        reason=found.reason,
        figure=found.reason,
    )


def judge_on_validation(declaration: ImageUseCase, data: Dataset) -> Evaluate:
    """The metrics no candidate may lose, of a function from images to logits; the declared one first."""
    from scipy.special import softmax

    from labline.evaluation import classification_metrics

    images, targets = data.split("validation")
    guarded = dict.fromkeys([declaration.training.select, "accuracy", "balanced_accuracy"])

    def evaluate(logits: LogitsFunction) -> dict[str, float]:
        metrics = classification_metrics(softmax(logits(images), axis=1), targets)
        return {name: metrics[name] for name in guarded}

    return evaluate


def _finetune(pruned: ImageClassifier, declaration: ImageUseCase, data: Dataset) -> ImageClassifier:
    """Let a pruned network recover: the declared training, shorter and with next to no warm-up."""
    from labline.training import fit

    epochs = declaration.compression.finetune_epochs
    if epochs == 0:
        return pruned
    settings = declaration.training.model_copy(update={"epochs": epochs, "warmup": 0.1, "early_stopping": 0})
    fitted = fit(pruned.backbone, data.split("train"), data.split("validation"), settings, declaration.augmentation)
    return fitted.model
