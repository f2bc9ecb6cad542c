"""Evaluate: the chosen model on the test split, as a person would want to see it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from labline.references import DatasetRef, EvaluatedModel, ExportedModel
from labline.strict_json import nan_to_null
from labline.usecase import Corruption, ImageUseCase
from tasks.stage import stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from onnxruntime import InferenceSession

    from labline.data.dataset import Dataset
    from labline.evaluation import Evaluation

WORST = 25


@stage(sections=("evaluation",))
def evaluate(
    declaration: ImageUseCase, dataset: DatasetRef, exported: ExportedModel, *, workspace: Workspace
) -> EvaluatedModel:
    """Metrics with intervals, per class, slice and corruption, with the pictures; and the baseline for monitoring."""
    from labline.baseline import baseline
    from labline.data.dataset import open_dataset
    from labline.evaluation import evaluate as measure
    from labline.evaluation import named_figures, robustness, write_evaluation
    from labline.export.onnx_runtime import session
    from labline.reference import image_reference, write_reference

    data = open_dataset(workspace.resolve(dataset.directory))
    images, targets = data.split("test")
    rows = data.rows("test").reset_index(drop=True)
    chosen = session(workspace.resolve(exported.directory) / "chosen.onnx", threads=0)
    beliefs, answered, embedding = _answers(chosen, images)
    severities = declaration.evaluation.corruptions
    found = replace(
        measure(beliefs, targets, data.labels, rows),
        robustness=robustness(corrupted_probabilities(chosen, images, severities), severities, targets),
    )
    figures, bounds = named_figures(found)
    metrics = {f"test_{name}": value for name, value in figures.items()}
    intervals = {f"test_{name}": ends for name, ends in bounds.items()}
    workspace.metrics(metrics)
    workspace.metrics({f"{name}_low": low for name, (low, _) in intervals.items()})
    workspace.metrics({f"{name}_high": high for name, (_, high) in intervals.items()})
    workspace.table("per_class", found.per_class, show=20)
    workspace.table("slices", found.slices, show=20)
    workspace.table("robustness", found.robustness, show=20)
    _pictures(data, found, beliefs, targets, rows, workspace)
    write_evaluation(found, workspace.path / "evaluation.json")
    (workspace.path / "baseline.json").write_text(json.dumps(baseline(rows, beliefs, found), indent=1))
    write_reference(image_reference(rows, answered, embedding, data.labels), workspace.path / "reference.parquet")
    low, high = intervals["test_accuracy"]
    return EvaluatedModel(
        directory=workspace.name,
        digest=hashlib.sha256(json.dumps(nan_to_null(metrics), sort_keys=True).encode()).hexdigest(),
        metrics=metrics,
        intervals=intervals,
        figure=f"test accuracy {metrics['test_accuracy']:.4f} ({low:.4f} to {high:.4f})",
    )


def _answers(
    model: InferenceSession, images_NHWC: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """What `probabilities` gives, the probabilities as the model will serve them, and its embedding if it has one.

    All from one pass over the images, for that is what takes the time.
    """
    from scipy.special import softmax

    from labline.export.onnx_runtime import EMBEDDING, OUTPUTS, onnx_outputs, output_sizes

    names = [name for name in (*OUTPUTS, EMBEDDING) if name in output_sizes(model)]
    logits_NK, answered_NK, *embedding = onnx_outputs(model, images_NHWC, names)
    return softmax(logits_NK, axis=1), answered_NK, embedding[0] if embedding else None


def probabilities(model: InferenceSession, images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating]:
    """What an ONNX model believes of uint8 images: float N x K."""
    from scipy.special import softmax

    from labline.export.onnx_runtime import onnx_logits

    beliefs_NK: npt.NDArray[np.floating] = softmax(onnx_logits(model, images_NHWC), axis=1)
    return beliefs_NK


def corrupted_probabilities(
    model: InferenceSession, images_NHWC: npt.NDArray[np.uint8], severities: Mapping[Corruption, float]
) -> dict[Corruption, npt.NDArray[np.floating]]:
    """What an ONNX model believes of the images under each corruption, by its name; every model sees the same ones."""
    from labline.corruptions import corrupt

    return {name: probabilities(model, corrupt(images_NHWC, name, severity)) for name, severity in severities.items()}


def _pictures(
    data: Dataset,
    found: Evaluation,
    beliefs_NK: npt.NDArray[np.floating],
    targets_N: npt.NDArray[np.integer],
    rows: pd.DataFrame,
    workspace: Workspace,
) -> None:
    from labline import plots
    from labline.evaluation import mistakes

    worst = mistakes(beliefs_NK, targets_N, data.labels, rows, most=WORST)
    workspace.table("worst_mistakes", worst, show=10)
    workspace.figure("confusion_matrix", plots.confusion_matrix(found.confusion, data.labels))
    workspace.figure("roc_curves", plots.roc_curves(beliefs_NK, targets_N, data.labels))
    workspace.figure("reliability", plots.reliability_diagram(beliefs_NK, targets_N))
    if len(worst):
        titles = [f"{row.label} → {row.predicted} ({row.confidence:.0%})" for row in worst.itertuples()]
        workspace.figure("worst_mistakes", plots.worst_mistakes(data.images[worst["row"].to_numpy()], titles))
