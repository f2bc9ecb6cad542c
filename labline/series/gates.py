"""What a challenging forecaster must show before it takes the champion's place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labline.gates import Judgement
from labline.usecase import Promotion

if TYPE_CHECKING:
    import pandas as pd

    from labline.series.comparison import ForecastComparison


def judge_forecasts(comparison: ForecastComparison, promotion: Promotion, against: str) -> list[Judgement]:
    """Hold a challenger against a champion, whom `against` names: at least as good, and for no entity much worse.

    The first judgement is non-inferiority: the bound of the paired difference against `promotion.margin`, a share of
    the champion's loss, or absolute where the comparison is. Where there are several entities, the one that loses most
    is held against `promotion.slice_margin` alike, of those with `promotion.smallest_slice` windows.

    Raises ValueError where the comparison was made with another confidence than the promotion asks for.
    """
    if comparison.confidence != promotion.confidence:
        raise ValueError(f"compared at confidence {comparison.confidence:g}, declared {promotion.confidence:g}")
    large = comparison.groups[comparison.groups["support"] >= promotion.smallest_slice]
    overall = _non_inferiority(comparison, promotion, against)
    return [overall, *([_worst(comparison, large, promotion.slice_margin, against)] if len(large) else [])]


def _non_inferiority(comparison: ForecastComparison, promotion: Promotion, against: str) -> Judgement:
    margin, sure = promotion.margin, f"{100 * promotion.confidence:g} % sure"
    figure = comparison.high if comparison.is_loss else comparison.low
    return Judgement(
        gate=f"{comparison.metric} against {against}",
        figure=figure,
        limit=f"{_limit(comparison, margin)} ({sure})",
        passed=figure <= margin if comparison.is_loss else figure >= -margin,
        note=(
            f"{comparison.challenger:.4g} against {comparison.champion:.4g} on {comparison.samples:,} windows, "
            f"{comparison.spelled(comparison.difference)} (Diebold–Mariano p = {comparison.diebold_mariano_p:.2g})"
        ),
    )


def _worst(comparison: ForecastComparison, groups: pd.DataFrame, margin: float, against: str) -> Judgement:
    """The entity that loses most, of those large enough to judge."""
    worst = groups.sort_values("difference", ascending=not comparison.is_loss, kind="stable").iloc[0]
    difference = float(worst["difference"])
    return Judgement(
        gate=f"worst entity: {worst['value']}",
        figure=difference,
        limit=f"no entity: {_limit(comparison, margin)}",
        passed=difference <= margin if comparison.is_loss else difference >= -margin,
        note=f"{worst['challenger']:.4g} against {worst['champion']:.4g} of {against} on {worst['support']:,} windows",
    )


def _limit(comparison: ForecastComparison, margin: float) -> str:
    if not comparison.is_loss:
        return f"difference at least {-margin or 0.0:g}"
    return f"difference at most {margin:g}{' of the loss' if comparison.relative else ''}"
