"""Gates: what a model must show before it is registered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from labline.usecase import Gate


@dataclass(frozen=True)
class Judgement:
    """One gate: the figure seen, the limit declared, and whether it holds. A missing figure never passes."""

    gate: str
    figure: float
    limit: str
    passed: bool


def judge(gates: Mapping[str, Gate], figures: Mapping[str, float]) -> list[Judgement]:
    """Hold every declared gate against the figure of its name."""
    return [_judge(name, gate, figures.get(name, math.nan)) for name, gate in gates.items()]


def _judge(name: str, gate: Gate, figure: float) -> Judgement:
    limits = []
    if gate.min is not None:
        limits.append((f"at least {gate.min:g}", figure >= gate.min))
    if gate.max is not None:
        limits.append((f"at most {gate.max:g}", figure <= gate.max))
    return Judgement(name, figure, " and ".join(text for text, _ in limits), all(holds for _, holds in limits))
