"""Is a challenging forecaster at least as good as the champion: both judged on the same moments, in pairs.

Shape legend: N windows, K outputs, M moments in the order of time, B bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.optimize import brentq

from labline.errors import BadInput
from labline.evaluation import classification_metrics, weighted_metrics
from labline.series.backtests import Alternative, diebold_mariano
from labline.series.dataset import SeriesDataset, Windows, complete_windows
from labline.series.declaration import Features
from labline.series.features import compute_features
from labline.series.forecasting import ForecastSettings, forecast_losses

Floats = npt.NDArray[np.float64]
Outputs = npt.NDArray[np.float32]

ABSOLUTE = ("log_score",)  # in nats, whose zero means nothing; every other loss is zero where the forecast is right
DIGITS = 10  # of a difference: what is the same is 0 apart, although a bound is found only within 1e-12
FIRST_STEP = 0.01  # from the difference to where a bound is looked for first; then twice as far, and so on
LONGEST_SEARCH = 40  # times


@dataclass(frozen=True)
class ForecastComparison:
    """A champion and a challenger on the same windows; `champion` and `challenger` are the metric of each.

    `difference` is challenger minus champion, where `relative` as a share of the champion's, so that 0.02 of a loss is
    2 % worse. `low` and `high` are one-sided bounds of it, each at `confidence`; infinite where the data set none.
    `is_loss` says whether less is better. `diebold_mariano` is positive where the challenger's loss is the larger one,
    and `diebold_mariano_p` two-sided; of classes, the loss is a wrong decision.
    `groups` has kind ("entity"), value, support, champion, challenger and difference, where there are several
    entities; it is empty for one.
    """

    samples: int
    moments: int
    metric: str
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    confidence: float
    relative: bool
    is_loss: bool
    diebold_mariano: float
    diebold_mariano_p: float
    groups: pd.DataFrame

    @property
    def verdict(self) -> str:
        """The difference with its bounds and the test, in a line."""
        low, high, difference = (self.spelled(value) for value in (self.low, self.high, self.difference))
        bounds = f"{100 * self.confidence:g} % sure above {low}, below {high}"
        return f"difference {difference}; {bounds}; Diebold–Mariano p = {self.diebold_mariano_p:.3g}"

    def spelled(self, difference: float) -> str:
        """A difference as people read it: +1.3 %, or +0.0130 where it is absolute."""
        return f"{100 * difference:+.2f} %" if self.relative else f"{difference:+.4f}"


def compare_forecasts(
    champion_NK: Outputs,
    challenger_NK: Outputs,
    targets_N: npt.NDArray[np.float32],
    rows: pd.DataFrame,
    horizon: int,
    settings: tuple[ForecastSettings, ForecastSettings],
    metric: str,
    confidence: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ForecastComparison:
    """Compare what two forecasters say of the same windows, N, on a metric of theirs.

    `rows` are the manifest rows, timestamp and entity, at which the windows end; `settings` those of champion and
    challenger. What several entities lose at one moment is averaged: moments follow one another in time, entities do
    not, and what strikes all at once counts once.

    The bounds of a loss invert the one-sided Diebold–Mariano test: of the challenger's losses against (1 + d) times
    the champion's, the bounds are the d at which the p-value is 1 - confidence (Fieller 1954, "Some Problems in
    Interval Estimation", for the ratio of two means that vary together), with the variance, for overlapping horizons,
    of `labline.series.backtests.diebold_mariano`. Log scores are compared against the champion's plus d.
    Figures of classes that are no mean of losses have the bounds of a paired stationary bootstrap of moments (Politis &
    Romano 1994), in blocks of the length that suits the differences, at least the horizon.

    Raises BadInput where a forecaster has no such metric, or there are no more moments than the horizon.
    """
    for who, setting in zip(("champion", "challenger"), settings, strict=True):
        if metric not in setting.metrics:
            raise BadInput(f"comparison: the {who}, of head {setting.head}, has no {metric}; choose training.select")
    classes = settings[1].head == "classes"
    errors = [
        _errors(outputs_NK, targets_N, setting, metric)
        for outputs_NK, setting in zip((champion_NK, challenger_NK), settings, strict=True)
    ]
    champion_M, challenger_M = (_by_moment(error_N, rows) for error_N in errors)
    test = diebold_mariano(challenger_M, champion_M, horizon)
    is_loss = settings[1].metrics[metric] == "lower"
    figures = _shares(champion_NK, challenger_NK, targets_N, metric) if classes and not is_loss else _means(errors)
    relative = is_loss and metric not in ABSOLUTE
    if is_loss:
        low, high = _bounds(champion_M, challenger_M, horizon, confidence, relative)
    else:
        beliefs = (champion_NK, challenger_NK)
        low, high = _resampled_bounds(beliefs, targets_N, rows, horizon, metric, confidence, bootstrap, seed)
    return ForecastComparison(
        samples=len(targets_N),
        moments=len(champion_M),
        metric=metric,
        champion=figures[0],
        challenger=figures[1],
        difference=_difference(*figures, relative),
        low=low,
        high=high,
        confidence=confidence,
        relative=relative,
        is_loss=is_loss,
        diebold_mariano=test.statistic,
        diebold_mariano_p=test.p_value,
        groups=_groups(errors if is_loss else [1 - error_N for error_N in errors], rows, relative),
    )


def champion_windows(
    data: SeriesDataset, windows: Windows, features: Features
) -> tuple[Windows, npt.NDArray[np.bool_]]:
    """The rows of `windows` as a forecaster with other features sees them, and which of the rows it can see, N.

    Raises BadInput where the rows lack a column that its features read.
    """
    described = data.description
    if (tuple(features.inputs), features.window) == (described.inputs, described.window):
        return windows, np.ones(len(windows), dtype=bool)
    features_NF = compute_features(data.manifest, features.inputs)
    complete = complete_windows(features_NF, data.manifest["stretch"].to_numpy(), features.window)
    seen_N = complete[windows.indices]
    return Windows(features_NF, data.targets, windows.indices[seen_N], features.window), seen_N


def _errors(outputs_NK: Outputs, targets_N: npt.NDArray[np.float32], setting: ForecastSettings, metric: str) -> Floats:
    """The loss of each window: of the metric, or 1 for a wrong decision where the metric is no mean of losses."""
    if setting.head != "classes":
        losses = forecast_losses(torch.from_numpy(outputs_NK), torch.from_numpy(targets_N), setting)[metric]
        means_N: Floats = losses.reshape(len(losses), -1).mean(axis=1)
        return means_N
    classes_N = targets_N.astype(np.int64)
    if metric == "log_score":
        likelihood_N = _probabilities(outputs_NK)[np.arange(len(classes_N)), classes_N]
        losses_N: Floats = -np.log(likelihood_N.clip(np.finfo(np.float64).eps))
        return losses_N
    return _wrong(outputs_NK, classes_N)


def _wrong(outputs_NK: Outputs, classes_N: npt.NDArray[np.int64]) -> Floats:
    wrong_N: Floats = (outputs_NK.argmax(axis=1) != classes_N).astype(np.float64)
    return wrong_N


def _probabilities(logits_NK: Outputs) -> Floats:
    probabilities_NK: Floats = torch.from_numpy(logits_NK).double().softmax(dim=1).numpy()
    return probabilities_NK


def _means(errors: list[Floats]) -> tuple[float, float]:
    champion, challenger = (float(error_N.mean()) for error_N in errors)
    return champion, challenger


def _shares(
    champion_NK: Outputs, challenger_NK: Outputs, targets_N: npt.NDArray[np.float32], metric: str
) -> tuple[float, float]:
    champion, challenger = (
        classification_metrics(_probabilities(outputs_NK), targets_N.astype(np.int64))[metric]
        for outputs_NK in (champion_NK, challenger_NK)
    )
    return champion, challenger


def _by_moment(values_N: Floats, rows: pd.DataFrame) -> Floats:
    """The mean over entities at each moment, M in the order of time."""
    moment_N = pd.factorize(rows["timestamp"].to_numpy(), sort=True)[0]
    means_M: Floats = np.bincount(moment_N, weights=values_N) / np.bincount(moment_N)
    return means_M


def _difference(champion: float, challenger: float, relative: bool) -> float:
    if not relative:
        return round(challenger - champion, DIGITS)
    if champion == 0:
        return math.inf if challenger > 0 else 0.0
    return round(challenger / champion - 1, DIGITS)


def _bounds(
    champion_M: Floats, challenger_M: Floats, horizon: int, confidence: float, relative: bool
) -> tuple[float, float]:
    """Where the one-sided tests stop to tell the challenger's losses from the champion's, made worse by so much."""

    def p_value(worse: float, alternative: Alternative) -> float:
        reference_M = (1 + worse) * champion_M if relative else worse + champion_M
        return diebold_mariano(challenger_M, reference_M, horizon, alternative).p_value

    estimate = _difference(float(champion_M.mean()), float(challenger_M.mean()), relative)
    if not math.isfinite(estimate):
        return estimate, estimate
    least = -1.0 if relative else -math.inf  # no loss is below zero
    low = _last(lambda worse: p_value(worse, "greater"), estimate, -1, 1 - confidence)
    return max(low, least), _last(lambda worse: p_value(worse, "less"), estimate, 1, 1 - confidence)


def _last(p_value: Callable[[float], float], estimate: float, sign: int, level: float) -> float:
    """Where a p-value falls to a level on one side of the estimate; infinite where it never does."""
    if p_value(estimate) <= level:
        return estimate
    step = FIRST_STEP
    for _ in range(LONGEST_SEARCH):
        if p_value(estimate + sign * step) <= level:
            found = brentq(lambda worse: p_value(worse) - level, estimate, estimate + sign * step)
            return round(float(found), DIGITS) + 0.0  # not -0
        step *= 2
    return sign * math.inf


def _resampled_bounds(
    beliefs: tuple[Outputs, Outputs],
    targets_N: npt.NDArray[np.float32],
    rows: pd.DataFrame,
    horizon: int,
    metric: str,
    confidence: float,
    bootstrap: int,
    seed: int,
) -> tuple[float, float]:
    """Quantiles of the difference over resamples of moments, the same for both; NaN where it is never defined."""
    from arch.bootstrap import optimal_block_length

    classes_N = targets_N.astype(np.int64)
    moment_N = pd.factorize(rows["timestamp"].to_numpy(), sort=True)[0]
    wrong = [_wrong(outputs_NK, classes_N) for outputs_NK in beliefs]
    apart_M = _by_moment(wrong[1] - wrong[0], rows)
    length = horizon if np.ptp(apart_M) == 0 else float(optimal_block_length(apart_M)["stationary"].iloc[0])
    counts_MB = _block_counts(len(apart_M), max(1, horizon, math.ceil(length)), bootstrap, seed)
    champion_B, challenger_B = (
        weighted_metrics(_probabilities(outputs_NK), classes_N, counts_MB[moment_N])[metric] for outputs_NK in beliefs
    )
    differences_B = challenger_B - champion_B
    defined = differences_B[~np.isnan(differences_B)]
    if defined.size == 0:
        return math.nan, math.nan
    low, high = np.quantile(defined, [1 - confidence, confidence])
    return round(float(low), DIGITS), round(float(high), DIGITS)


def _block_counts(moments: int, length: int, bootstrap: int, seed: int) -> npt.NDArray[np.float32]:
    """How often each moment is drawn in each resample of blocks of that mean length, M x B."""
    from arch.bootstrap import StationaryBootstrap

    resampler = StationaryBootstrap(length, np.arange(moments), seed=seed)
    drawn = (np.bincount(args[0], minlength=moments) for args, _ in resampler.bootstrap(bootstrap))
    return np.stack(list(drawn), axis=1).astype(np.float32)


def _groups(values: list[Floats], rows: pd.DataFrame, relative: bool) -> pd.DataFrame:
    """The mean loss, or share decided rightly, of each entity, where there are several."""
    columns = ["kind", "value", "support", "champion", "challenger", "difference"]
    table = pd.DataFrame({"champion": values[0], "challenger": values[1]})
    grouped = table.groupby(rows["entity"].astype(str).to_numpy())
    if grouped.ngroups < 2:
        return pd.DataFrame(columns=columns)
    found = grouped.mean().assign(kind="entity", support=grouped.size())
    found["difference"] = [
        _difference(champion, challenger, relative)
        for champion, challenger in zip(found["champion"], found["challenger"], strict=True)
    ]
    return found.rename_axis("value").reset_index()[columns]
