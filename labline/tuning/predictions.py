"""What a trial's model said of the validation split, kept so that trials can be compared sample by sample.

Shape legend: N validation samples, K outputs, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labline.evaluation import weighted_metrics
from labline.series.usecase import SeriesUseCase
from labline.usecase import UseCase

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Predictions:
    """Outputs N x K (probabilities of classes, else forecasts) and targets N of the samples `ids` N, which are text."""

    ids: npt.NDArray[np.str_]
    outputs: Floats
    targets: npt.NDArray[np.generic]

    def of(self, ids: npt.NDArray[np.str_]) -> Predictions:
        """Those of some of its samples, in that order."""
        position = {name: row for row, name in enumerate(self.ids.tolist())}
        rows = np.array([position[name] for name in ids.tolist()], dtype=np.int64)
        return Predictions(ids, self.outputs[rows], self.targets[rows])


def save_predictions(predictions: Predictions, path: Path) -> None:
    """Write them down, in one move."""
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, ids=predictions.ids, outputs=predictions.outputs, targets=predictions.targets)
    partial.replace(path)


def load_predictions(path: Path) -> Predictions:
    """Read them back."""
    with np.load(path) as saved:
        return Predictions(saved["ids"], saved["outputs"], saved["targets"])


def on_common_samples(found: Sequence[Predictions]) -> list[Predictions]:
    """All of them on the samples that all of them have, in the order of the first."""
    common = set(found[0].ids.tolist()).intersection(*(each.ids.tolist() for each in found[1:]))
    ids = np.array([name for name in found[0].ids.tolist() if name in common])
    return [each.of(ids) for each in found]


def weighted_figure(declaration: UseCase, predictions: Predictions, metric: str, weights_NB: Floats) -> Floats:
    """The metric under B weightings of the samples: float64 B."""
    if isinstance(declaration, SeriesUseCase) and declaration.model.head != "classes":
        losses_N = _losses(declaration, predictions, metric)
        return np.asarray(losses_N @ weights_NB / weights_NB.sum(axis=0), dtype=np.float64)
    targets_N = predictions.targets.astype(np.int64)
    if metric == "log_score":
        metric = "log_loss"
    return np.asarray(weighted_metrics(predictions.outputs, targets_N, weights_NB)[metric], dtype=np.float64)


def _losses(declaration: SeriesUseCase, predictions: Predictions, metric: str) -> npt.NDArray[np.float64]:
    import torch

    from labline.series.forecasting import forecast_losses
    from labline.series.weights import forecast_settings

    outputs = torch.from_numpy(np.asarray(predictions.outputs))
    targets = torch.from_numpy(np.asarray(predictions.targets))
    losses = forecast_losses(outputs, targets, forecast_settings(declaration))[metric]
    return losses if losses.ndim == 1 else losses.mean(axis=1)
