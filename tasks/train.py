"""Train: the declared network on the cleaned dataset, resumed from the last epoch after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from labline.declaration import expand
from labline.references import AugmentedRef, DatasetRef, TrainedModel
from labline.usecase import ImageUseCase
from tasks.lineage import write_facts
from tasks.sharing import present
from tasks.stage import file_digest, module_digest, stage
from tasks.trained import recorded_in, trained, workers_key
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from labline.distribution import Distribution
    from labline.models.classifier import ImageClassifier
    from labline.training import Epoch, Fitted


def _fit(
    declaration: ImageUseCase,
    directory: str,
    distribution: Distribution,
    checkpoint: Path,
    on_epoch: Callable[[Epoch], None] | None,
) -> Fitted[ImageClassifier]:
    """What each process that trains does; of several, none reads images that it has no need of."""
    from labline.data.dataset import open_dataset
    from labline.models.weights import build_declared
    from labline.training import fit

    data, start = open_dataset(present(directory)), declaration.model.start_from
    split = data.split if distribution.size == 1 else data.mapped
    return fit(
        build_declared(declaration, len(data.labels)),
        split("train"),
        split("validation"),
        declaration.training,
        declaration.augmentation,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        start_from=expand(start, "model.start_from") if start else None,
        distribution=distribution,
    )


def _start(declaration: ImageUseCase) -> dict[str, str]:
    path = declaration.model.start_from
    return {"weights to go on from": file_digest(expand(path, "model.start_from"))} if path else {}


@stage(
    sections=("model", "training", "augmentation"),
    depends=lambda declaration: {
        "source of model.architecture": module_digest(declaration.model.architecture),
        **_start(declaration),
        **workers_key(declaration),
    },
    resumes=True,
)
def train(
    declaration: ImageUseCase, dataset: DatasetRef, augmented: AugmentedRef, *, workspace: Workspace
) -> TrainedModel:
    """Fit the network, logging every epoch as it ends."""
    from labline.models.weights import save_weights
    from labline.plots import learning_curves

    settings = declaration.training
    work = partial(_fit, declaration, dataset.directory)
    on_epoch = recorded_in(workspace, declaration.engine, settings.epochs, settings.select)
    fitted = trained(declaration.engine, settings.device, work, workspace.name, on_epoch)
    weights = workspace.path / "model.safetensors"
    save_weights(fitted.model, weights)
    write_facts(workspace.path, declaration)
    declared = declaration.model_dump()
    for section in ("model", "training"):
        workspace.parameters({f"{section}.{key}": value for key, value in declared[section].items()})
    metrics = {f"best_validation_{settings.select}": fitted.validation_metric}
    workspace.metrics({**metrics, "temperature": float(fitted.model.temperature), "best_epoch": fitted.best_epoch})
    workspace.table("history", fitted.history)
    workspace.figure("learning_curves", learning_curves(fitted.history))
    return TrainedModel(
        directory=workspace.name,
        digest=hashlib.sha256(weights.read_bytes()).hexdigest(),
        epochs=len(fitted.history),
        metrics=metrics,
        figure=f"validation {settings.select} {fitted.validation_metric:.4f} in {len(fitted.history)} epochs",
    )
