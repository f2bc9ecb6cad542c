"""Evaluate: the chosen model on the test split, as a person would want to see it."""

from __future__ import annotations

import hashlib
import json

from labline.references import DatasetRef, EvaluatedModel, ExportedModel
from labline.strict_json import nan_to_null
from labline.usecase import UseCase
from tasks.stage import stage
from tasks.workspace import Workspace

WORST = 25


@stage(sections=())
def evaluate(
    declaration: UseCase, dataset: DatasetRef, exported: ExportedModel, *, workspace: Workspace
) -> EvaluatedModel:
    """Metrics with intervals, per class and slice, with the pictures; and the baseline for monitoring."""
    from scipy.special import softmax

    from labline import plots
    from labline.baseline import baseline
    from labline.data.dataset import open_dataset
    from labline.evaluation import evaluate as measure
    from labline.evaluation import mistakes, write_evaluation
    from labline.export.onnx import onnx_logits, session

    data = open_dataset(workspace.resolve(dataset.directory))
    images, targets = data.split("test")
    rows = data.rows("test").reset_index(drop=True)
    chosen = session(workspace.resolve(exported.directory) / "chosen.onnx", threads=0)
    beliefs = softmax(onnx_logits(chosen, images), axis=1)
    found = measure(beliefs, targets, data.labels, rows)
    metrics = {f"test_{name}": value for name, value in found.metrics.items()}
    intervals = {f"test_{name}": bounds for name, bounds in found.intervals.items()}
    workspace.metrics(metrics)
    workspace.metrics({f"{name}_low": low for name, (low, _) in intervals.items()})
    workspace.metrics({f"{name}_high": high for name, (_, high) in intervals.items()})
    workspace.table("per_class", found.per_class, show=20)
    workspace.table("slices", found.slices, show=20)
    worst = mistakes(beliefs, targets, data.labels, rows, most=WORST)
    workspace.table("worst_mistakes", worst, show=10)
    workspace.figure("confusion_matrix", plots.confusion_matrix(found.confusion, data.labels))
    workspace.figure("roc_curves", plots.roc_curves(beliefs, targets, data.labels))
    workspace.figure("reliability", plots.reliability_diagram(beliefs, targets))
    if len(worst):
        titles = [f"{row.label} → {row.predicted} ({row.confidence:.0%})" for row in worst.itertuples()]
        workspace.figure("worst_mistakes", plots.worst_mistakes(data.images[worst["row"].to_numpy()], titles))
    write_evaluation(found, workspace.path / "evaluation.json")
    (workspace.path / "baseline.json").write_text(json.dumps(baseline(rows, beliefs, found), indent=1))
    low, high = intervals["test_accuracy"]
    return EvaluatedModel(
        directory=workspace.name,
        digest=hashlib.sha256(json.dumps(nan_to_null(metrics), sort_keys=True).encode()).hexdigest(),
        metrics=metrics,
        intervals=intervals,
        figure=f"test accuracy {metrics['test_accuracy']:.4f} ({low:.4f} to {high:.4f})",
    )
