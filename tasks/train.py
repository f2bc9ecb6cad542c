"""Train: the declared network on the cleaned dataset, resumed from the last epoch after a kill."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING

from labline.declaration import expand
from labline.references import AugmentedRef, DatasetRef, TrainedModel
from labline.usecase import ImageUseCase
from tasks.lineage import write_facts
from tasks.stage import file_digest, module_digest, stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from labline.training import Epoch


def _start(declaration: ImageUseCase) -> dict[str, str]:
    path = declaration.model.start_from
    return {"weights to go on from": file_digest(expand(path, "model.start_from"))} if path else {}


@stage(
    sections=("model", "training", "augmentation"),
    depends=lambda declaration: {
        "source of model.architecture": module_digest(declaration.model.architecture),
        **_start(declaration),
    },
    resumes=True,
)
def train(
    declaration: ImageUseCase, dataset: DatasetRef, augmented: AugmentedRef, *, workspace: Workspace
) -> TrainedModel:
    """Fit the network, logging every epoch as it ends."""
    from labline.data.dataset import open_dataset
    from labline.models.weights import build_declared, save_weights
    from labline.plots import learning_curves
    from labline.training import fit

    data = open_dataset(workspace.resolve(dataset.directory))
    settings = declaration.training

    def on_epoch(epoch: Epoch) -> None:
        figures = asdict(epoch)
        losses, restored = figures.pop("losses"), figures.pop("restored")
        selected = figures[f"validation_{settings.select}"]
        workspace.progress(epoch.epoch, settings.epochs, f"epoch {epoch.epoch}, {settings.select} {selected:.4f}")
        first_step = (epoch.epoch - 1) * len(losses)
        workspace.steps(
            [(epoch.epoch, figures), *((first_step + i, {"step_loss": loss}) for i, loss in enumerate(losses))],
            seen_before=restored,
        )

    fitted = fit(
        build_declared(declaration, len(data.labels)),
        data.split("train"),
        data.split("validation"),
        settings,
        declaration.augmentation,
        checkpoint=workspace.path / "checkpoint.pt",
        on_epoch=on_epoch,
        start_from=expand(start, "model.start_from") if (start := declaration.model.start_from) else None,
    )
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
