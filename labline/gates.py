"""Gates: what a model must show before it is registered, and before it takes another's place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labline.usecase import Gate, Promotion

if TYPE_CHECKING:
    import pandas as pd

    from labline.comparison import Comparison

MOST_NAMED = 3  # groups too small to judge that a note names
UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class Judgement:
    """One gate: the figure seen, the limit declared, and whether it holds; `note` tells people what it rests on.

    A missing figure never passes.
    """

    gate: str
    figure: float
    limit: str
    passed: bool
    note: str = ""


def judge(
    gates: Mapping[str, Gate],
    figures: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> list[Judgement]:
    """Hold every declared gate against the figure of its name, and `low` against the lower end of its interval.

    Intervals are those of the evaluation, (low, high) at 95 %; a missing one never passes a gate that asks for it.
    """
    known = intervals or {}
    return [_judge(name, gate, figures.get(name, math.nan), known.get(name, UNKNOWN)) for name, gate in gates.items()]


def judge_comparison(comparison: Comparison, promotion: Promotion, against: str) -> list[Judgement]:
    """Hold a challenger against a champion, whom `against` names: at least as good, and nowhere much worse.

    The first judgement is non-inferiority: the lower bound of the paired difference against `promotion.margin`.
    Then come the worst class, the worst slice and the worst corruption against `promotion.slice_margin`, where any
    has `promotion.smallest_slice` samples; smaller groups are not judged, and the first note names them.

    Raises ValueError where the comparison was made with another confidence than the promotion asks for.
    """
    if comparison.confidence != promotion.confidence:
        raise ValueError(f"compared at confidence {comparison.confidence:g}, declared {promotion.confidence:g}")
    large = comparison.groups["support"] >= promotion.smallest_slice
    overall = _non_inferiority(comparison, promotion, against, comparison.groups[~large])
    groups = comparison.groups[large]
    slices = groups[~groups["kind"].isin(["class", "corruption", "part"])]  # a part has gates of its own
    judged = {
        "class": groups[groups["kind"] == "class"],
        "slice": slices.assign(value=slices["kind"] + " " + slices["value"]),
        "corruption": groups[groups["kind"] == "corruption"],
    }
    margin = promotion.slice_margin
    return [overall, *(_worst(kind, found, margin, against) for kind, found in judged.items() if len(found))]


def _judge(name: str, gate: Gate, figure: float, interval: tuple[float, float]) -> Judgement:
    limits = []
    if gate.min is not None:
        limits.append((f"at least {gate.min:g}", figure >= gate.min))
    if gate.max is not None:
        limits.append((f"at most {gate.max:g}", figure <= gate.max))
    limit = " and ".join(text for text, _ in limits)
    passed = not math.isnan(figure) and all(holds for _, holds in limits)
    if gate.low is None:
        return Judgement(name, figure, limit, passed)
    low, high = interval
    note = "no interval" if math.isnan(low) else f"95 % interval {low:.4g} to {high:.4g}"
    limit = ", ".join(filter(None, [limit, f"interval from {gate.low:g}"]))
    return Judgement(name, figure, limit, passed and low >= gate.low, note)


def _non_inferiority(comparison: Comparison, promotion: Promotion, against: str, small: pd.DataFrame) -> Judgement:
    note = (
        f"{comparison.challenger:.4g} against {comparison.champion:.4g} on {comparison.samples:,} samples; "
        f"alone right on {comparison.gained:,}, {against} on {comparison.lost:,} "
        f"(McNemar p = {comparison.mcnemar_p:.2g})"
    )
    if len(small):
        names = (small["kind"] + " " + small["value"]).tolist()
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        note += f"; not judged, under {promotion.smallest_slice} samples: {', '.join(names[:MOST_NAMED])}{more}"
    return Judgement(
        gate=f"{comparison.metric} against {against}",
        figure=comparison.low,
        limit=f"difference at least {_lowest(promotion.margin):g} ({100 * promotion.confidence:g} % sure)",
        passed=comparison.low >= -promotion.margin,
        note=note,
    )


def _worst(kind: str, groups: pd.DataFrame, margin: float, against: str) -> Judgement:
    """The group that loses most, of those large enough to judge."""
    worst = groups.sort_values("difference", kind="stable").iloc[0]
    return Judgement(
        gate=f"worst {kind}: {worst['value']}",
        figure=float(worst["difference"]),
        limit=f"no {kind} more than {margin:g} worse",
        passed=bool(worst["difference"] >= -margin),
        note=f"{worst['challenger']:.4g} against {worst['champion']:.4g} of {against} on {worst['support']:,} samples",
    )


def _lowest(margin: float) -> float:
    return -margin or 0.0  # a margin of 0 reads 0, not -0
