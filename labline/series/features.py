"""Features and targets of a series, computed from expressions: vectorised, in float64, written as float32.

What a feature is at a row depends on that row and earlier ones of its stretch alone, to the last bit: sums run over the
window in one order, so the same rows give the same feature wherever they stand. Targets are made of later rows alone.

Shape legend: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.errors import BadInput, nearest
from labline.series.baselines import LEAST_DAILY_VARIANCE, TRADING_DAYS, garman_klass
from labline.series.declaration import Features
from labline.series.expressions import Column, Expression, columns, parse

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def compute_features(
    rows: pd.DataFrame, inputs: Sequence[str], out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """The value of each expression at each row, float32 N x F; NaN where it is not defined or reaches too far back.

    `rows` has the value columns and `stretch`, a number that rows share where nothing is missing between them, and is
    in the order of time within it. The result is written to `out` where given (a memory map, for what is large).
    Raises BadInput where an expression reads a column that is not there.
    """
    position_N = position_in_stretch(rows["stretch"].to_numpy())
    features_NF = np.empty((len(rows), len(inputs)), np.float32) if out is None else out
    for number, text in enumerate(inputs):
        expression = parse(text)
        for name in sorted(columns(expression)):
            check_column(rows, name, f"features.inputs: {text!r}")
        with np.errstate(all="ignore"):  # what has no value becomes NaN
            values_N = _evaluated(expression, rows, position_N).astype(np.float32)
        features_NF[:, number] = np.where(np.isfinite(values_N), values_N, np.nan)
    return features_NF


def compute_target(rows: pd.DataFrame, features: Features) -> npt.NDArray[np.float32]:
    """What is to be forecast at each row, float32 N; NaN where the rows ahead are not all there.

    "realized-volatility": natural logarithm of the annualized root mean square of the log returns of the next `horizon`
    rows, at least that of one basis point a day; "value": the price `horizon` rows ahead; "direction": 1 where that is
    above the present price, else 0.
    """
    check_column(rows, features.price, "features.price")
    stretch_N = rows["stretch"].to_numpy()
    position_N = position_in_stretch(stretch_N)
    price_N = rows[features.price].to_numpy(np.float64)
    ahead_N = _ahead(price_N, stretch_N, features.horizon)
    with np.errstate(all="ignore"):
        if features.target == "realized-volatility":
            squares_N = (_logarithm(price_N) - _lag(_logarithm(price_N), 1, position_N)) ** 2
            past_N = _rolling_mean(squares_N, features.horizon, position_N)
            variance_N = TRADING_DAYS * np.maximum(_ahead(past_N, stretch_N, features.horizon), LEAST_DAILY_VARIANCE)
            target_N: npt.NDArray[np.float32] = (0.5 * np.log(variance_N)).astype(np.float32)
            return target_N
    if features.target == "value":
        return ahead_N.astype(np.float32)
    rises_N = np.where(np.isnan(ahead_N) | np.isnan(price_N), np.nan, ahead_N > price_N)
    return rises_N.astype(np.float32)


def parkinson_variance(high_N: Floats, low_N: Floats) -> Floats:
    """The variance of each single day from its range: ln(high / low)² / (4 ln 2), not annualized.

    Parkinson 1980, "The Extreme Value Method for Estimating the Variance of the Rate of Return", Journal of Business
    53. NaN where high lies below low.
    """
    spread_N = _logarithm(high_N) - _logarithm(low_N)
    variance_N: Floats = np.where(spread_N >= 0, spread_N**2 / (4 * np.log(2)), np.nan)
    return variance_N


def garman_klass_variance(open_N: Floats, high_N: Floats, low_N: Floats, close_N: Floats) -> Floats:
    """`labline.series.baselines.garman_klass` of prices; NaN where open or close lies outside of the range."""
    inside_N = (high_N >= np.maximum(open_N, close_N)) & (low_N <= np.minimum(open_N, close_N))
    logarithms = (_logarithm(price_N) for price_N in (open_N, high_N, low_N, close_N))
    variance_N: Floats = np.where(inside_N, garman_klass(*logarithms), np.nan)
    return variance_N


def position_in_stretch(stretch_N: npt.NDArray[np.generic]) -> Integers:
    """How many rows of its stretch come before each row; N."""
    index_N = np.arange(len(stretch_N))
    starts_N = np.ones(len(stretch_N), dtype=bool)
    starts_N[1:] = stretch_N[1:] != stretch_N[:-1]
    position_N: Integers = index_N - np.maximum.accumulate(np.where(starts_N, index_N, 0))
    return position_N


def check_column(rows: pd.DataFrame, name: str, where: str) -> None:
    """Raise BadInput where `rows` have no such column of numbers, naming the nearest."""
    numeric = [str(column) for column in rows.select_dtypes("float").columns]
    if name not in numeric:
        raise BadInput(f"{where}: the data has no column {name!r}; {nearest(name, numeric)}")


def _evaluated(expression: Expression, rows: pd.DataFrame, position_N: Integers) -> Floats:
    if isinstance(expression, Column):
        return rows[expression.name].to_numpy(np.float64)
    if expression.series is None:
        return _range_volatility(expression.name, expression.rows, rows, position_N)
    values_N = _evaluated(expression.series, rows, position_N)
    match expression.name:
        case "log":
            return _logarithm(values_N)
        case "log-return":
            logarithm_N = _logarithm(values_N)
            return logarithm_N - _lag(logarithm_N, 1, position_N)
        case "difference":
            return values_N - _lag(values_N, 1, position_N)
        case "absolute":
            return np.abs(values_N)
        case "square":
            return values_N**2
        case "lag":
            return _lag(values_N, expression.rows, position_N)
        case "rolling-mean":
            return _rolling_mean(values_N, expression.rows, position_N)
        case _:
            return _rolling_std(values_N, expression.rows, position_N)


def _range_volatility(name: str, days: int, rows: pd.DataFrame, position_N: Integers) -> Floats:
    """Annualized volatility: the root of the mean variance of so many days, at least one basis point a day."""
    if name == "parkinson":
        daily_N = parkinson_variance(*(rows[column].to_numpy(np.float64) for column in ("high", "low")))
    else:
        prices = (rows[column].to_numpy(np.float64) for column in ("open", "high", "low", "close"))
        daily_N = garman_klass_variance(*prices)
    mean_N = np.maximum(_rolling_mean(daily_N, days, position_N), LEAST_DAILY_VARIANCE)
    volatility_N: Floats = np.sqrt(TRADING_DAYS * mean_N)
    return volatility_N


def _logarithm(values_N: Floats) -> Floats:
    logarithm_N: Floats = np.log(np.where(values_N > 0, values_N, np.nan))
    return logarithm_N


def _lag(values_N: Floats, rows: int, position_N: Integers) -> Floats:
    lagged_N = np.full(len(values_N), np.nan)
    lagged_N[rows:] = values_N[:-rows]
    lagged_N[position_N < rows] = np.nan
    return lagged_N


def _ahead(values_N: Floats, stretch_N: npt.NDArray[np.generic], rows: int) -> Floats:
    """The value so many rows later in the same stretch."""
    ahead_N = np.full(len(values_N), np.nan)
    same_N = stretch_N[rows:] == stretch_N[:-rows]
    ahead_N[:-rows][same_N] = values_N[rows:][same_N]
    return ahead_N


def _rolling_mean(values_N: Floats, rows: int, position_N: Integers) -> Floats:
    mean_N = _rolling_sum(values_N, rows) / rows
    mean_N[position_N < rows - 1] = np.nan
    return mean_N


def _rolling_std(values_N: Floats, rows: int, position_N: Integers) -> Floats:
    """With rows - 1 in the denominator; in two passes, because one loses what is small beside its mean."""
    mean_N = _rolling_mean(values_N, rows, position_N)
    std_N: Floats = np.sqrt(_rolling_sum(values_N, rows, mean_N) / (rows - 1))
    return std_N


def _rolling_sum(values_N: Floats, rows: int, mean_N: Floats | None = None) -> Floats:
    """The sum over each row and the rows - 1 before it, or of their squared distances from `mean_N`; NaN at first.

    The loop is over the window, not over the rows.
    """
    sum_N = np.full(len(values_N), np.nan)
    if len(values_N) < rows:
        return sum_N
    sum_N[rows - 1 :] = 0
    for later in range(rows):
        values_M = values_N[later : len(values_N) - rows + 1 + later]
        sum_N[rows - 1 :] += values_M if mean_N is None else (values_M - mean_N[rows - 1 :]) ** 2
    return sum_N
