"""A forecaster judged on its test split: its metrics with intervals and, of volatility, beside what people use.

Shape legend: N test windows in the order of the data set, D rows of the data set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from labline.errors import BadInput
from labline.evaluation import classification_metrics
from labline.series.backtests import diebold_mariano
from labline.series.baselines import VarianceForecasts, baseline_forecasts, realized_variance
from labline.series.dataset import SeriesDataset, Windows
from labline.series.dataset import windows as windows_of
from labline.series.evaluation import block_interval, qlike, risk_figures, risk_table
from labline.series.forecaster import implied_variance
from labline.series.forecasting import ForecastSettings, forecast_losses
from labline.strict_json import nan_to_null

Floats = npt.NDArray[np.float64]

REFIT = 250  # rows that the baselines' parameters stay frozen: about a year
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Rivals:
    """The network beside HAR, GARCH(1,1) and EWMA on the same days of one entity.

    `table` is `labline.series.evaluation.risk_table` with the row "network" first; `figures` are its numbers by name
    (`test_qlike`, `har_qlike`, …) and the one-sided p-values `p_worse_than_har`, `p_better_than_garch` and
    `p_better_than_ewma`. `forecasts` are of all D rows, `rows` the positions of the days judged.
    """

    table: pd.DataFrame
    figures: dict[str, float]
    forecasts: dict[str, VarianceForecasts]
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Assessment:
    """What evaluate found, without its arrays: `metrics` and the `intervals` (95 %) of those that have one.

    `first` and `last` are the days of the first and last test window, `rivals` the table of `Rivals` and
    `verdict` what it comes to in words; empty where there is nothing to compare with, and then `verdict` says why.
    """

    target: str
    head: str
    samples: int
    first: str
    last: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    rivals: pd.DataFrame = field(default_factory=pd.DataFrame)
    verdict: str = ""


def assess(
    dataset: SeriesDataset, windows: Windows, outputs: npt.NDArray[np.float32], forecast: ForecastSettings
) -> tuple[Assessment, Rivals | None]:
    """Judge forecasts `outputs` of `windows` (see `rows_after_training`) on the test split.

    The metrics of the comparison, where there is one, are among `Assessment.metrics` under the names of
    `Rivals.figures` less "test_".
    """
    test = windows_of(dataset, "test")
    tested = outputs[np.searchsorted(windows.indices, test.indices)]
    days = dataset.manifest["timestamp"].iloc[test.indices]
    metrics, intervals = own_metrics(tested, dataset.targets[test.indices], days, forecast)
    rivals, said = None, ""
    try:
        rivals = against_rivals(dataset, windows, outputs, test, forecast)
        said = verdict(rivals.figures)
    except BadInput as error:
        said = f"Not compared with HAR, GARCH(1,1) and EWMA: {error}."
    found = Assessment(
        target=dataset.description.target,
        head=forecast.head,
        samples=len(test),
        first=f"{days.min():%Y-%m-%d}",
        last=f"{days.max():%Y-%m-%d}",
        metrics=metrics | ({} if rivals is None else {n.removeprefix("test_"): v for n, v in rivals.figures.items()}),
        intervals=intervals,
        rivals=pd.DataFrame() if rivals is None else rivals.table,
        verdict=said,
    )
    return found, rivals


def own_metrics(
    outputs: npt.NDArray[np.float32],
    targets_N: npt.NDArray[np.float32],
    order_N: pd.Series[Any],
    forecast: ForecastSettings,
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Metrics and their 95 % intervals of forecasts, N x outputs.

    Intervals resample blocks of days, because losses of days that follow one another are alike; `order_N` are
    the moments by which they do, so that a block holds every entity. Shares of classes other than accuracy have none.
    """
    if forecast.head == "classes":
        probabilities_NK = torch.from_numpy(outputs).double().softmax(dim=1).numpy()
        classes_N = targets_N.astype(np.int64)
        metrics = classification_metrics(probabilities_NK, classes_N)
        losses = {"accuracy": (probabilities_NK.argmax(axis=1) == classes_N).astype(np.float64)}
    else:
        losses = forecast_losses(torch.from_numpy(outputs), torch.from_numpy(targets_N), forecast)
        metrics = {name: float(loss.mean()) for name, loss in losses.items()}
    by_time = np.argsort(order_N.to_numpy(), kind="stable")
    per_sample = {name: loss.reshape(len(loss), -1).mean(axis=1)[by_time] for name, loss in losses.items()}
    return metrics, {name: block_interval(loss) for name, loss in per_sample.items() if len(loss) > 1}


def rows_after_training(dataset: SeriesDataset) -> Windows:
    """Every complete window that ends after training, with or without a target: validation, embargo and test.

    Value at risk scales forecasts by how past ones did, so they must begin before the test split, and none of
    them may be of rows that the network was fitted to.
    """
    manifest = dataset.manifest
    trained = (manifest["split"] == "train").to_numpy()
    last = manifest["timestamp"].where(trained).groupby(manifest["entity"]).transform("max")
    later = (manifest["timestamp"] > last).to_numpy() & manifest["complete"].to_numpy()
    return Windows(dataset.features, dataset.targets, np.flatnonzero(later), dataset.description.window)


def against_rivals(
    dataset: SeriesDataset,
    windows: Windows,
    outputs: npt.NDArray[np.float32],
    test: Windows,
    forecast: ForecastSettings,
) -> Rivals:
    """Compare forecasts `outputs` of `windows` (see `rows_after_training`) with baselines on the days of `test`.

    Raises BadInput where there is no such comparison: another target, several entities, too short a history.
    """
    described, manifest = dataset.description, dataset.manifest
    if described.target != "realized-volatility":
        raise BadInput(f"HAR, GARCH and EWMA forecast realized volatility, and the target is {described.target}")
    if len(described.entities) != 1:
        raise BadInput(f"HAR, GARCH and EWMA are compared with on one entity, and there are {len(described.entities)}")
    network_D = np.full(len(manifest), np.nan)
    network_D[windows.indices] = implied_variance(torch.from_numpy(outputs), forecast.head, forecast.levels).numpy()
    network = VarianceForecasts(network_D, network_D)
    first, horizon = int(windows.indices[0]), described.horizon
    forecasts = {"network": network, **baseline_forecasts(manifest, first, horizon, REFIT, described.price)}
    close_D = manifest[described.price].to_numpy(np.float64)
    table = risk_table(forecasts, close_D, test.indices, horizon)
    losses = {
        name: qlike(realized_variance(close_D, horizon)[test.indices], found.horizon_variance[test.indices])
        for name, found in forecasts.items()
    }
    return Rivals(table, _figures(table, losses, horizon), forecasts, test.indices)


def verdict(figures: Mapping[str, float]) -> str:
    """Whether the network earns its place beside HAR and GARCH(1,1), in plain words, from `Rivals.figures`."""
    ours, har, garch = (figures[f"{name}_qlike"] for name in ("test", "har", "garch"))
    worse, better = figures["p_worse_than_har"], figures["p_better_than_garch"]
    against_har = f"QLIKE {ours:.4f} against {har:.4f} of HAR (one-sided Diebold–Mariano p = {worse:.2g} for worse)"
    against_garch = f"{garch:.4f} of GARCH(1,1) (p = {better:.2g} for better)"
    said = f"{against_har} and {against_garch}"
    if worse < SIGNIFICANCE:
        return f"The network does not earn its place: HAR forecasts better. {said}."
    if better >= SIGNIFICANCE:
        return f"The network does not earn its place: it is not shown to be better than GARCH(1,1). {said}."
    if ours > har:
        return f"The network holds its place, and no more: better than GARCH(1,1), not shown worse than HAR. {said}."
    return f"The network earns its place: better than GARCH(1,1), and not worse than HAR. {said}."


def write_assessment(found: Assessment, path: Path) -> None:
    """Write it as JSON."""
    document = asdict(found) | {"rivals": found.rivals.to_dict("records")}
    path.write_text(json.dumps(nan_to_null(document), indent=1))


def open_assessment(path: Path) -> Assessment:
    """Read what `write_assessment` wrote; figures that were not defined are NaN."""
    document = json.loads(path.read_text())
    intervals = {name: (float(low), float(high)) for name, (low, high) in document["intervals"].items()}
    metrics = {name: float("nan") if value is None else value for name, value in document["metrics"].items()}
    rivals = pd.DataFrame(document["rivals"])
    return Assessment(**document | {"intervals": intervals, "metrics": metrics, "rivals": rivals})


def _figures(table: pd.DataFrame, losses: Mapping[str, Floats], horizon: int) -> dict[str, float]:
    ours = losses["network"]
    return risk_figures(table) | {
        "p_worse_than_har": diebold_mariano(ours, losses["har"], horizon, "greater").p_value,
        "p_better_than_garch": diebold_mariano(ours, losses["garch"], horizon, "less").p_value,
        "p_better_than_ewma": diebold_mariano(ours, losses["ewma"], horizon, "less").p_value,
    }
