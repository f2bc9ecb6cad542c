"""What a network has to beat: HAR, GARCH(1,1) and EWMA forecasts of realized variance, made walk-forward.

Row t of every array is the close of day t, and what stands there was known at that close: parameters are estimated
on rows up to a refit row, stay frozen until the next one, and the state they are applied to moves on every day.
Variances are annualized by 252 trading days. All rows are of one entity, in the order of time.

Shape legend: N days, P regressors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.errors import BadInput

Floats = npt.NDArray[np.float64]

TRADING_DAYS = 252
WEEK, MONTH = 5, 22  # trading days, as Corsi 2009 has them
DECAY = 0.94  # of daily data; RiskMetrics Technical Document, 4th edition 1996, chapter 5
FEWEST_DAYS = 100  # before the first forecast: fewer do not tell GARCH's three parameters apart
LEAST_DAILY_VARIANCE = 1e-8  # one basis point of volatility a day: days without trade have no logarithm otherwise

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VarianceForecasts:
    """Annualized variances forecast at the close of each day from what was known then; both float64 N.

    `horizon_variance` is the mean of days t + 1 to t + horizon, `next_day_variance` that of day t + 1 alone, which
    value at risk needs. NaN where nothing is forecast.
    """

    horizon_variance: Floats
    next_day_variance: Floats


def baseline_forecasts(
    prices: pd.DataFrame, first: int, horizon: int = 5, refit: int = 250, price: str = "close"
) -> dict[str, VarianceForecasts]:
    """The forecasts of "har", "garch" and "ewma" for every row from `first` on.

    `prices` holds the column `price` and, where HAR is to use ranges, open, high and low. `refit` is the number of
    rows that parameters stay frozen. Raises BadInput where prices are no positive numbers or rows are too few.
    """
    checked_prices(prices, first, horizon, refit, price)
    close_N = prices[price].to_numpy(np.float64)
    return {
        "har": har(close_N, daily_variance(prices, price), first, horizon, refit),
        "garch": garch(close_N, first, horizon, refit),
        "ewma": ewma(close_N, first),
    }


def log_returns(close_N: Floats) -> Floats:
    """The log return of each day since the day before; NaN on the first."""
    return np.diff(np.log(close_N), prepend=np.nan)


def realized_variance(close_N: Floats, horizon: int) -> Floats:
    """The target: annualized mean square of the log returns of days t + 1 to t + horizon, N; NaN where not yet known.

    At least that of one basis point a day, so that its logarithm exists.
    """
    mean_square = pd.Series(log_returns(close_N) ** 2).rolling(horizon).mean().shift(-horizon)
    return TRADING_DAYS * mean_square.clip(lower=LEAST_DAILY_VARIANCE).to_numpy()


def daily_variance(prices: pd.DataFrame, price: str = "close") -> Floats:
    """The variance of each single day (not annualized), N: HAR's regressor.

    `garman_klass` where open, high and low are at hand; the squared log return, which is about seven times as noisy,
    where they are not. The night before is left out: HAR's coefficients make up for its share, and forecasts of the
    S&P 500 and of NASDAQ are worse with it.
    """
    if not {"open", "high", "low"} <= set(prices.columns):
        return log_returns(prices[price].to_numpy(np.float64)) ** 2
    return garman_klass(*(np.log(prices[name].to_numpy(np.float64)) for name in ("open", "high", "low", price)))


def garman_klass(open_N: Floats, high_N: Floats, low_N: Floats, close_N: Floats) -> Floats:
    """The variance of each single day, of natural logarithms of its prices: range² / 2 - (2 ln 2 - 1) drift².

    Garman & Klass 1980, "On the Estimation of Security Price Volatilities from Historical Data", Journal of Business
    53, equation 20; of the open market, not annualized.
    """
    variance_N: Floats = 0.5 * (high_N - low_N) ** 2 - (2 * np.log(2) - 1) * (close_N - open_N) ** 2
    return variance_N


def ewma(close_N: Floats, first: int, decay: float = DECAY) -> VarianceForecasts:
    """RiskMetrics' exponentially weighted mean of squared returns: the same forecast for every day ahead.

    RiskMetrics Technical Document 1996, chapter 5. Weights sum to one also where the past is short.
    """
    mean_square = pd.Series(log_returns(close_N) ** 2).ewm(alpha=1 - decay).mean()
    forecast_N = TRADING_DAYS * mean_square.clip(lower=LEAST_DAILY_VARIANCE).to_numpy(copy=True)
    forecast_N[:first] = np.nan
    return VarianceForecasts(forecast_N, forecast_N)


def har(close_N: Floats, daily_variance_N: Floats, first: int, horizon: int = 5, refit: int = 250) -> VarianceForecasts:
    """Heterogeneous autoregression: the variance ahead on the means of the past day, week and month.

    Corsi 2009, "A Simple Approximate Long-Memory Model of Realized Volatility", by ordinary least squares,
    directly: one regression for the horizon and one for the next day. In variances, as Andersen, Bollerslev & Diebold
    2007, "Roughing It Up", also have it, and not in logarithms, because what a noisy target is to teach is its mean:
    on the S&P 500 of 2010–2013 QLIKE is 0.354, and 0.369 in logarithms.
    A line can dip below zero: a forecast below every variance seen before is replaced by their mean, the lower half of
    the "insanity filter" of Swanson & White 1997 as in Bollerslev, Patton & Quaedvlieg 2016, "Exploiting the Errors".
    """
    past = TRADING_DAYS * pd.Series(daily_variance_N)
    regressors_NP = np.column_stack([np.ones(len(past)), *(past.rolling(days).mean() for days in (1, WEEK, MONTH))])
    return VarianceForecasts(
        _regressed(regressors_NP, realized_variance(close_N, horizon), horizon, first, refit),
        _regressed(regressors_NP, realized_variance(close_N, 1), 1, first, refit),
    )


def garch(close_N: Floats, first: int, horizon: int = 5, refit: int = 250) -> VarianceForecasts:
    """GARCH(1,1) around a zero mean, estimated by Gaussian quasi maximum likelihood with `arch`.

    Bollerslev 1986, "Generalized Autoregressive Conditional Heteroskedasticity"; Bollerslev & Wooldridge 1992 for
    the estimate's consistency under other distributions. The mean is zero because the target is a mean square.
    The horizon's variance is the mean of the expected variances of its days, each omega + (alpha + beta) times the
    day's before, which also holds where alpha + beta is one.

    Raises BadInput where prices never move.
    """
    from scipy.signal import lfilter

    returns_N = log_returns(close_N)
    next_day_N, horizon_N = np.full((2, len(close_N)), np.nan)
    for fitted, stop in _refits(first, len(close_N), refit):
        past_N = returns_N[1 : fitted + 1]
        scale = float(np.sqrt(np.mean(past_N**2)))
        omega, alpha, beta, variance = _estimated_garch(past_N, scale)
        shocks_N = omega + alpha * (returns_N[fitted:stop] / scale) ** 2
        ahead_N, _ = lfilter([1.0], [1.0, -beta], shocks_N, zi=[beta * variance])
        annual = TRADING_DAYS * scale**2
        next_day_N[fitted:stop] = annual * ahead_N
        days = [ahead_N]
        for _ in range(1, horizon):
            days.append(omega + (alpha + beta) * days[-1])
        horizon_N[fitted:stop] = annual * np.mean(days, axis=0)
    return VarianceForecasts(horizon_N, next_day_N)


def checked_prices(prices: pd.DataFrame, first: int, horizon: int, refit: int, price: str = "close") -> None:
    """Raise BadInput unless baselines can be estimated on these prices from row `first` on."""
    used = [name for name in ("open", "high", "low") if name in prices] + [price]
    if price not in prices:
        raise BadInput(f"baselines: no column {price!r} among {', '.join(map(str, prices.columns))}; name the price")
    values_NP = prices[used].to_numpy(np.float64)
    wrong = ~(np.isfinite(values_NP) & (values_NP > 0)).all(axis=1)
    if wrong.any():
        raise BadInput(
            f"baselines: row {int(wrong.argmax())} and {int(wrong.sum()) - 1} more hold a price among "
            f"{', '.join(used)} that is missing or not above zero, and log returns need both; quarantine these rows"
        )
    if min(horizon, refit) < 1:
        raise BadInput(f"baselines: horizon is {horizon} and refit {refit} rows, expected 1 or more of each")
    if not FEWEST_DAYS + horizon <= first < len(prices):
        raise BadInput(
            f"baselines: the first forecast is at row {first} of {len(prices)}, expected {FEWEST_DAYS + horizon} or "
            "more rows before it to estimate on, and one at least to forecast; give more history, or move the split"
        )


def _refits(first: int, days: int, refit: int) -> Iterator[tuple[int, int]]:
    """(row that parameters are estimated at, row after the last they are used for)."""
    for fitted in range(first, days, refit):
        yield fitted, min(fitted + refit, days)


def _regressed(regressors_NP: Floats, target_N: Floats, horizon: int, first: int, refit: int) -> Floats:
    forecast_N = np.full(len(target_N), np.nan)
    for fitted, stop in _refits(first, len(target_N), refit):
        known = slice(MONTH, fitted - horizon + 1)  # the target of later rows lies after the day of the estimate
        coefficients_P = np.linalg.lstsq(regressors_NP[known], target_N[known])[0]
        line_N = regressors_NP[fitted:stop] @ coefficients_P
        forecast_N[fitted:stop] = np.where(line_N < target_N[known].min(), target_N[known].mean(), line_N)
    return forecast_N


def _estimated_garch(past_N: Floats, scale: float) -> tuple[float, float, float, float]:
    """omega, alpha, beta and the variance of the last day, of returns divided by `scale`."""
    from arch import arch_model

    if scale == 0:
        raise BadInput(
            f"baselines: the price is the same on all of the first {len(past_N) + 1} rows; look at its source"
        )
    model = arch_model(past_N / scale, mean="Zero", vol="GARCH", p=1, q=1, rescale=False)
    result = model.fit(disp="off", show_warning=False)
    if result.convergence_flag != 0:
        logger.warning("GARCH(1,1) on the first %d rows: the optimizer stopped early", len(past_N) + 1)
    omega, alpha, beta = (float(value) for value in result.params)
    return omega, alpha, beta, float(result.conditional_volatility[-1]) ** 2
