"""Judging a version for a stage: every gate with its figure, its limit and whether it holds.

Staging asks for the absolute: declared floors and budgets, parity, a clean start. Production asks besides how the
version compares with the one in Production, on the same test rows and with the same interface. What differs between
images and series is in `tasks.examination` and `tasks.series.examination`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from labline.gates import Judgement, judge
from labline.references import GateTable
from labline.series.usecase import SeriesUseCase
from labline.standing import Stage
from tasks.gate_table import gate_table
from tasks.infrastructure import check_infrastructure
from tasks.registry import Registry
from tasks.version import Version, fetch_version

if TYPE_CHECKING:
    import numpy.typing as npt

    from labline.comparison import Comparison
    from labline.evaluation import Interval
    from labline.series.comparison import ForecastComparison

PARITY = 0.999  # share of test samples on which the fp32 ONNX file must answer as PyTorch; near ties may differ
TIMED = 64  # test samples that the latency is measured with


class Examination(Protocol):
    """A version before its own test rows."""

    @property
    def version(self) -> Version:
        """The version that is examined."""

    def figures(self) -> tuple[dict[str, float], dict[str, Interval]]:
        """What a gate can name besides costs, measured here and now, and the intervals."""

    def samples(self, most: int) -> npt.NDArray[Any]:
        """The first test samples, as the released file takes them."""

    def comparable(self, champion: Version) -> bool:
        """Whether both can be asked about the same rows, and answer the same question."""

    def compare(self, champion: Version) -> Comparison | ForecastComparison:
        """Both on the test rows that the champion was not trained on; raises BadInput for none left."""

    def judge(self, champion: Version) -> list[Judgement]:
        """The gates that the comparison is held against."""


def examine(version: Version) -> Examination:
    """Put a version before its test rows; raises BadInput where they cannot be had."""
    if isinstance(version.declaration, SeriesUseCase):
        from tasks.series.examination import examine_forecaster

        return examine_forecaster(version, version.declaration)
    from tasks.examination import examine_classifier

    return examine_classifier(version, version.declaration)


def judge_version(registry: Registry, number: str, stage: Stage, champion: str | None) -> GateTable:
    """Measure the version anew on this machine and hold it against every gate of `stage`.

    `champion` is the version in Production, if any. Raises BadInput where something needed cannot be had.
    """
    version = fetch_version(registry, number)
    examination = examine(version)
    judgements = [*_declared(examination), _parity(version), _infrastructure(version)]
    if champion is not None:
        judgements += _against_champion(examination, fetch_version(registry, champion))
    return gate_table(number, stage, champion, judgements)


def _declared(examination: Examination) -> list[Judgement]:
    """The declared gates, on figures measured here and now."""
    from labline.export.latency import measure

    version = examination.version
    figures, intervals = examination.figures()
    speed = measure({"released": version.onnx}, examination.samples(TIMED)).iloc[0]
    costs = {name: float(speed[name]) for name in ("latency_ms_p50", "latency_ms_p99", "throughput")}
    costs["bytes"] = float(version.onnx.stat().st_size)
    return judge(version.declaration.gates, figures | costs, intervals)


def _parity(version: Version) -> Judgement:
    agreement = float(json.loads(version.tags["parity"])["decision_agreement"])
    return Judgement("ONNX parity", agreement, f"at least {PARITY:g} of answers as PyTorch's", agreement >= PARITY)


def _infrastructure(version: Version) -> Judgement:
    report = check_infrastructure(version.folder)
    note = "; ".join(report.problems) or f"ready, p50 {report.latency_ms_p50:.3g} ms"
    limit = "answers its input example in a clean process"
    return Judgement("infrastructure", float(report.ok), limit, report.ok, note)


def _against_champion(examination: Examination, champion: Version) -> list[Judgement]:
    challenger, against = examination.version, f"version {champion.number}"
    same = challenger.signature == champion.signature
    note = "" if same else f"{against}: {champion.signature}; now: {challenger.signature}"
    signature = Judgement("signature", float(same), f"inputs and outputs of {against}", same, note)
    # Where the champion cannot be asked about these rows, or answers another question, there is nothing to compare.
    return [signature, *(examination.judge(champion) if examination.comparable(champion) else [])]
