"""How good forecasts of risk are: losses of variance forecasts, value at risk, and one table of all models.

Shape legend: N days, in the order of time; Q quantiles; M forecasts of a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.errors import BadInput, nearest
from labline.series.backtests import conditional_coverage, diebold_mariano, independence, unconditional_coverage
from labline.series.baselines import TRADING_DAYS, VarianceForecasts, log_returns, realized_variance

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]

CONFIDENCE_LEVEL = 0.95
RESIDUALS = 1000  # days of history: four years, of which the tenth worst is the 1 % quantile
FEWEST_RESIDUALS = 100  # of fewer, none is below the 1 % quantile


def qlike(realized_N: Floats, forecast_N: Floats) -> Floats:
    """The quasi-likelihood loss of each variance forecast: 0 where it is right, dearer too low than too high.

    realized / forecast - log(realized / forecast) - 1: Patton 2011, "Volatility Forecast Comparison Using Imperfect
    Volatility Proxies", in the form that is 0 at its least. It ranks forecasts of the variance rightly although
    realized variance is a noisy stand-in for it. Both arrays are above zero, in the same unit.
    """
    ratio_N = realized_N / forecast_N
    losses_N: Floats = ratio_N - np.log(ratio_N) - 1
    return losses_N


def squared_log_error(realized_N: Floats, forecast_N: Floats) -> Floats:
    """The squared error of each forecast's log variance.

    Beside QLIKE and not instead of it: it favours forecasts of the median over those of the mean, which differ the
    more the noisier the realized variance (Patton 2011).
    """
    losses_N: Floats = np.log(realized_N / forecast_N) ** 2
    return losses_N


def pinball(observed_N: Floats, quantiles_NQ: Floats, levels: Sequence[float]) -> Floats:
    """The quantile loss of each forecast, N x Q: smallest in expectation at the quantile of its level (0 to 1).

    Koenker & Bassett 1978, "Regression Quantiles".
    """
    errors_NQ = observed_N[:, None] - quantiles_NQ
    level_Q = np.asarray(levels)
    losses_NQ: Floats = np.maximum(level_Q * errors_NQ, (level_Q - 1) * errors_NQ)
    return losses_NQ


def block_interval(losses_N: Floats, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of losses that follow one another in time; the same for the same seed.

    Stationary bootstrap (Politis & Romano 1994) of blocks whose mean length suits the losses' autocorrelation
    (Politis & White 2004, corrected by Patton, Politis & White 2009), as `arch` does both.
    """
    from arch.bootstrap import StationaryBootstrap, optimal_block_length

    if np.ptp(losses_N) == 0:
        return float(losses_N[0]), float(losses_N[0])
    length = max(1, int(np.ceil(optimal_block_length(losses_N)["stationary"].iloc[0])))
    means = StationaryBootstrap(length, losses_N, seed=seed).apply(np.mean, resamples)
    low, high = np.quantile(means, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return float(low), float(high)


def network_forecasts(mean_M: Floats, deviation_M: Floats, rows_M: Integers, days: int) -> VarianceForecasts:
    """A Gaussian head's forecasts of log annualized volatility as variances on all `days` rows, NaN on the others.

    The mean of a lognormal variance: exp(2 mean + 2 deviation²). A head without deviation passes zeros, and then
    forecasts the median, which QLIKE punishes. The next day's is taken to be the horizon's mean day.
    """
    variance_N = np.full(days, np.nan)
    variance_N[rows_M] = np.exp(2 * mean_M.astype(np.float64) + 2 * deviation_M.astype(np.float64) ** 2)
    return VarianceForecasts(variance_N, variance_N)


def value_at_risk(returns_N: Floats, next_day_N: Floats, level: float = 0.99, window: int = RESIDUALS) -> Floats:
    """One-day value at risk at each close, N: the log return of the next day is below -value with 1 - level.

    Filtered historical simulation: the forecast volatility times the quantile of past returns, each divided by the
    volatility that was forecast for its day, of the last `window` such days up to t. Barone-Adesi, Giannopoulos &
    Vosper 1999, "VaR without Correlations for Portfolios of Derivative Securities"; among the best of those that
    Kuester, Mittnik & Paolella 2006, "Value-at-Risk Prediction", compare. The same rule for every model: it assumes
    no distribution, and takes out a scale that is always wrong by the same factor, such as that of a forecast for
    five days used for one. `returns_N` are the days' log returns, `next_day_N` annualized variances.

    NaN where nothing is forecast, or fewer than 100 forecast days have passed.
    """
    volatility_N = np.sqrt(next_day_N / TRADING_DAYS)
    standardized = pd.Series(returns_N) / pd.Series(volatility_N).shift(1)
    past = standardized.rolling(window, min_periods=min(FEWEST_RESIDUALS, window))
    # Of n values the k-th smallest is undercut with chance k / (n + 1): rounding down keeps nearest to the level.
    quantile_N = past.quantile(1 - level, interpolation="lower").to_numpy()
    value_N: Floats = -quantile_N * volatility_N
    return value_N


def risk_table(
    forecasts: Mapping[str, VarianceForecasts],
    close_N: Floats,
    rows: Integers,
    horizon: int = 5,
    against: str = "network",
    level: float = 0.99,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a model, in the order of `forecasts`, judged on the days `rows` (increasing positions in `close_N`).

    Columns: model; days (those of `rows` whose horizon has passed); qlike with its 95 % interval qlike_low and
    qlike_high; mse_log_variance; diebold_mariano and diebold_mariano_p on QLIKE (two-sided), positive where `against`
    has the lower loss, NaN for itself; value_at_risk_days, violations, expected_violations, violation_share,
    value_at_risk_loss (mean pinball loss of the return), kupiec_p, independence_p and christoffersen_p.
    The days before `rows` count as history for value at risk, so forecasts should begin earlier; p-values are NaN
    where there is no day with a value at risk.

    Raises BadInput where `against` is no model, or a forecast is missing or not above zero on one of the days.
    """
    if against not in forecasts:
        raise BadInput(f"risk table: no forecasts of {against!r} to compare with; {nearest(against, forecasts)}")
    realized_N = realized_variance(close_N, horizon)
    known = rows[np.isfinite(realized_N[rows])]
    for name, forecast in forecasts.items():
        _check_forecasts(name, forecast, known, len(close_N), horizon)
    losses = {name: qlike(realized_N[known], forecast.horizon_variance[known]) for name, forecast in forecasts.items()}
    found = []
    for name, forecast in forecasts.items():
        low, high = block_interval(losses[name], seed=seed)
        test = diebold_mariano(losses[name], losses[against], horizon) if name != against else None
        log_errors_N = squared_log_error(realized_N[known], forecast.horizon_variance[known])
        figures = {"qlike": losses[name].mean(), "qlike_low": low, "qlike_high": high}
        figures |= {"mse_log_variance": log_errors_N.mean(), "diebold_mariano": test.statistic if test else np.nan}
        figures |= {"diebold_mariano_p": test.p_value if test else np.nan}
        figures |= coverage(log_returns(close_N), forecast.next_day_variance, known, level)
        found.append({"model": name, "days": len(known)} | figures)
    return pd.DataFrame(found)


def coverage(returns_N: Floats, next_day_N: Floats, rows: Integers, level: float = 0.99) -> dict[str, float]:
    """How often value at risk was exceeded on the days after `rows`, and what tests say: part of `risk_table`."""
    value_N = value_at_risk(returns_N, next_day_N, level)[rows]
    return_N = np.append(returns_N, np.nan)[rows + 1]
    stated = np.isfinite(value_N) & np.isfinite(return_N)
    value_N, return_N = value_N[stated], return_N[stated]
    violations_N = return_N < -value_N
    days, found = len(violations_N), int(violations_N.sum())
    figures = {"value_at_risk_days": days, "violations": found, "expected_violations": (1 - level) * days}
    if days == 0:
        undefined = ("violation_share", "value_at_risk_loss", "kupiec_p", "independence_p", "christoffersen_p")
        return figures | dict.fromkeys(undefined, np.nan)
    return figures | {
        "violation_share": found / days,
        "value_at_risk_loss": float(pinball(return_N, -value_N[:, None], [1 - level]).mean()),
        "kupiec_p": unconditional_coverage(violations_N, level).p_value,
        "independence_p": independence(violations_N).p_value,
        "christoffersen_p": conditional_coverage(violations_N, level).p_value,
    }


def risk_figures(table: pd.DataFrame, tested: str = "network") -> dict[str, float]:
    """A risk table as named figures for a run: test_qlike, har_qlike, har_diebold_mariano_p and so on.

    Those of the model `tested` begin with "test"; undefined ones are left out.
    """
    figures: dict[str, float] = {}
    for row in table.to_dict("records"):
        prefix = "test" if row["model"] == tested else row["model"]
        figures |= {f"{prefix}_{name}": float(value) for name, value in row.items() if name != "model"}
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def _check_forecasts(name: str, forecast: VarianceForecasts, rows: Integers, days: int, horizon: int) -> None:
    if len(rows) <= horizon:
        raise BadInput(
            f"risk table: {len(rows)} days whose horizon of {horizon} days has passed, expected more than {horizon}; "
            "take a longer test split"
        )
    for variance_N in (forecast.horizon_variance, forecast.next_day_variance):
        if variance_N.shape != (days,):
            raise BadInput(
                f"risk table: {name} forecasts {variance_N.shape} days, expected ({days},) as there are prices"
            )
        usable = np.isfinite(variance_N[rows]) & (variance_N[rows] > 0)
        if not usable.all():
            raise BadInput(
                f"risk table: {name} has no forecast above zero on {int((~usable).sum())} of {len(rows)} days, the "
                f"first at row {int(rows[~usable][0])}; every model is judged on the same days"
            )
