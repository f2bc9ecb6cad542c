"""Evaluate: the chosen forecaster on the test split, beside HAR, GARCH(1,1) and EWMA where they forecast the same."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, cast

from labline.references import DatasetRef, EvaluatedModel, ExportedModel
from labline.series.usecase import SeriesUseCase
from labline.strict_json import nan_to_null
from tasks.stage import stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from labline.series.assessment import Rivals
    from labline.series.dataset import SeriesDataset

BARE = ("har_", "garch_", "ewma_", "p_", "kupiec_p", "christoffersen_p")  # figures that are called so on the run


@stage(sections=("features", "model", "training", "augmentation"))
def evaluate(
    declaration: SeriesUseCase, dataset: DatasetRef, exported: ExportedModel, *, workspace: Workspace
) -> EvaluatedModel:
    """Metrics with intervals, the comparison and its pictures; and the baseline for monitoring."""
    from labline.export.onnx_runtime import session
    from labline.reference import write_reference
    from labline.series.assessment import assess, rows_after_training, write_assessment
    from labline.series.dataset import open_series
    from labline.series.export import onnx_forecasts
    from labline.series.profile import series_profile, series_reference
    from labline.series.weights import forecast_settings, selected_metric

    data = open_series(workspace.resolve(dataset.directory))
    later = rows_after_training(data)
    outputs = onnx_forecasts(session(workspace.resolve(exported.directory) / "chosen.onnx", threads=0), later)
    settings = forecast_settings(declaration)
    found, rivals = assess(data, later, outputs, settings)
    metrics = {_on_the_run(name): value for name, value in found.metrics.items()}
    intervals = {f"test_{name}": ends for name, ends in found.intervals.items()}
    workspace.metrics(metrics)
    workspace.metrics({f"{name}_low": low for name, (low, _) in intervals.items()})
    workspace.metrics({f"{name}_high": high for name, (_, high) in intervals.items()})
    if rivals is not None:
        workspace.table("risk", rivals.table, show=10)
        _pictures(data, rivals, workspace)
    workspace.say(found.verdict)
    write_assessment(found, workspace.path / "evaluation.json")
    profile = series_profile(data, later, outputs, found)
    (workspace.path / "baseline.json").write_text(json.dumps(profile, indent=1))
    write_reference(series_reference(data, later, outputs, settings), workspace.path / "reference.parquet")
    select, _ = selected_metric(declaration)
    low, high = found.intervals.get(select, (float("nan"), float("nan")))
    return EvaluatedModel(
        directory=workspace.name,
        digest=hashlib.sha256(json.dumps(nan_to_null(metrics), sort_keys=True).encode()).hexdigest(),
        metrics=metrics,
        intervals=intervals,
        rivals=[] if rivals is None else cast(Any, nan_to_null(rivals.table.to_dict("records"))),
        verdict=found.verdict,
        figure=f"test {select} {found.metrics[select]:.4f} ({low:.4f} to {high:.4f})",
    )


def _on_the_run(name: str) -> str:
    return name if name.startswith(BARE) else f"test_{name}"


def _pictures(data: SeriesDataset, rivals: Rivals, workspace: Workspace) -> None:
    import numpy as np
    import pandas as pd

    from labline.series.baselines import log_returns, realized_variance
    from labline.series.evaluation import value_at_risk
    from labline.series.plots import forecast_against_realized, value_at_risk_violations

    rows, described = rivals.rows, data.description
    close = data.manifest[described.price].to_numpy(np.float64)
    days = pd.DatetimeIndex(data.manifest["timestamp"])
    variances = {name: found.horizon_variance[rows] for name, found in rivals.forecasts.items()}
    realized = realized_variance(close, described.horizon)[rows]
    workspace.figure("forecast_against_realized", forecast_against_realized(days[rows], realized, variances))
    stated = value_at_risk(log_returns(close), rivals.forecasts["network"].next_day_variance)[rows]
    following = rows + 1  # a test row has its horizon after it
    violations = value_at_risk_violations(days[following], log_returns(close)[following], stated)
    workspace.figure("value_at_risk", violations)
