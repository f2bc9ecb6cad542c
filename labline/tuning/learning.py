"""What a trial does: it trains the declared network, and answers the validation split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from labline.declaration import expand
from labline.series.usecase import SeriesUseCase
from labline.tuning.predictions import Predictions
from labline.usecase import ImageUseCase, UseCase

if TYPE_CHECKING:
    from labline.training import Epoch

LATENCY_SECONDS = 1.5  # that one file is measured for


@dataclass(frozen=True)
class Learned:
    """What training came to: the selected `metric` on validation, after so many `epochs`.

    `export` writes the float32 ONNX file; `samples` are inputs that it takes.
    """

    metric: float
    epochs: int
    predictions: Predictions
    export: Callable[[Path], Path]
    samples: npt.NDArray[np.generic]


def measure_of(declaration: UseCase) -> tuple[str, bool]:
    """The validation metric that decides, and whether more of it is better."""
    if isinstance(declaration, SeriesUseCase):
        from labline.series.weights import selected_metric

        name, is_loss = selected_metric(declaration)
        return name, not is_loss
    assert isinstance(declaration, ImageUseCase)
    return declaration.training.select, True


def learn(declaration: UseCase, dataset: Path, checkpoint: Path, on_epoch: Callable[[Epoch], None]) -> Learned:
    """Train on the data set in a folder, gone on with from `checkpoint` where it was broken off.

    What `on_epoch` raises ends it. Raises BadInput where data and network do not fit together, LablineError where
    training diverges.
    """
    if isinstance(declaration, SeriesUseCase):
        return _series(declaration, dataset, checkpoint, on_epoch)
    assert isinstance(declaration, ImageUseCase)
    return _images(declaration, dataset, checkpoint, on_epoch)


def latencies(files: dict[str, Path], samples: npt.NDArray[np.generic]) -> dict[str, float]:
    """Median milliseconds that each ONNX file takes for one sample on one thread, measured in turns."""
    from labline.export.latency import measure

    table = measure(files, samples, LATENCY_SECONDS)
    return {str(name): float(value) for name, value in zip(table["name"], table["latency_ms_p50"], strict=True)}


def _images(declaration: ImageUseCase, folder: Path, checkpoint: Path, on_epoch: Callable[[Epoch], None]) -> Learned:
    from labline.data.dataset import open_dataset
    from labline.export.onnx import export_onnx
    from labline.models.weights import build_declared
    from labline.training import fit, predict_logits

    dataset, start = open_dataset(folder), declaration.model.start_from
    images, targets_N = dataset.split("validation")
    fitted = fit(
        build_declared(declaration, len(dataset.labels)),
        dataset.split("train"),
        (images, targets_N),
        declaration.training,
        declaration.augmentation,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        start_from=expand(start, "model.start_from") if start else None,
    )
    probabilities_NK = softmax(predict_logits(fitted.model, images).astype(np.float64), axis=1)
    ids = dataset.rows("validation")["sample_id"].to_numpy(dtype=str)
    size, channels = declaration.data.image_size, declaration.data.channels
    return Learned(
        metric=fitted.validation_metric,
        epochs=len(fitted.history),
        predictions=Predictions(ids, probabilities_NK, targets_N),
        export=lambda path: export_onnx(fitted.model, path, size, channels),
        samples=images[:64],
    )


def _series(declaration: SeriesUseCase, folder: Path, checkpoint: Path, on_epoch: Callable[[Epoch], None]) -> Learned:
    from labline.series.dataset import open_series, windows
    from labline.series.export import export_forecaster
    from labline.series.forecasting import fit_forecaster, predict
    from labline.series.weights import build_forecaster_network, forecast_settings

    dataset = open_series(folder)
    validation = windows(dataset, "validation")
    fitted = fit_forecaster(
        build_forecaster_network(declaration),
        windows(dataset, "train"),
        validation,
        declaration.training,
        forecast_settings(declaration),
        checkpoint=checkpoint,
        on_epoch=on_epoch,
    )
    answers: Any = predict(fitted.model, validation)
    if declaration.model.head == "classes":
        answers = softmax(answers.astype(np.float64), axis=1)
    inputs_NTF, targets_N = validation.batch(np.arange(len(validation)))
    ids = dataset.manifest["sample_id"].iloc[validation.indices].to_numpy(dtype=str)
    features = declaration.features
    return Learned(
        metric=fitted.validation_metric,
        epochs=len(fitted.history),
        predictions=Predictions(ids, answers, targets_N),
        export=lambda path: export_forecaster(fitted.model, path, features.window, len(features.inputs)),
        samples=inputs_NTF[:64],
    )
