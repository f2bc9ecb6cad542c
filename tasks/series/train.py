"""Train: the declared network on the windows of the training split, resumed from the last epoch after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from labline.references import DatasetRef, TrainedModel
from labline.series.usecase import SeriesUseCase
from tasks.lineage import write_facts
from tasks.sharing import present
from tasks.stage import module_digest, stage
from tasks.trained import recorded_in, trained, workers_key
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from labline.distribution import Distribution
    from labline.series.forecaster import Forecaster
    from labline.training import Epoch, Fitted


def _fit(
    declaration: SeriesUseCase,
    directory: str,
    distribution: Distribution,
    checkpoint: Path,
    on_epoch: Callable[[Epoch], None] | None,
) -> Fitted[Forecaster]:
    """What each process that trains does."""
    from labline.series.dataset import open_series, windows
    from labline.series.forecasting import fit_forecaster
    from labline.series.weights import build_forecaster_network, forecast_settings

    data = open_series(present(directory))
    return fit_forecaster(
        build_forecaster_network(declaration),
        windows(data, "train"),
        windows(data, "validation"),
        declaration.training,
        forecast_settings(declaration),
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        distribution=distribution,
    )


@stage(
    sections=("model", "training", "augmentation", "features"),
    depends=lambda declaration: {
        "source of model.architecture": module_digest(declaration.model.architecture),
        **workers_key(declaration),
    },
    resumes=True,
)
def train(declaration: SeriesUseCase, dataset: DatasetRef, *, workspace: Workspace) -> TrainedModel:
    """Fit the network, logging every epoch as it ends."""
    from labline.models.weights import save_weights
    from labline.plots import learning_curves
    from labline.series.weights import selected_metric

    select, is_loss = selected_metric(declaration)
    work = partial(_fit, declaration, dataset.directory)
    engine, settings = declaration.engine, declaration.training
    on_epoch = recorded_in(workspace, engine, settings.epochs, select)
    fitted = trained(engine, settings.device, work, workspace.name, on_epoch)
    weights = workspace.path / "model.safetensors"
    save_weights(fitted.model, weights)
    write_facts(workspace.path, declaration)
    declared = declaration.model_dump(mode="json")
    for section in ("features", "model", "training"):
        workspace.parameters({f"{section}.{key}": value for key, value in declared[section].items()})
    metrics = {f"best_validation_{select}": fitted.validation_metric}
    workspace.metrics({**metrics, "best_epoch": fitted.best_epoch})
    workspace.table("history", fitted.history)
    workspace.figure("learning_curves", learning_curves(fitted.history, select, is_loss))
    return TrainedModel(
        directory=workspace.name,
        digest=hashlib.sha256(weights.read_bytes()).hexdigest(),
        epochs=len(fitted.history),
        metrics=metrics,
        figure=f"validation {select} {fitted.validation_metric:.4f} in {len(fitted.history)} epochs",
    )
