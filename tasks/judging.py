"""Judging a version for a stage: every gate with its figure, its limit and whether it holds.

Staging asks for the absolute: declared floors and budgets, parity, a clean start. Production asks besides how the
version compares with the one in Production, on the same test rows and with the same interface.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from labline.errors import BadInput
from labline.gates import Judgement, judge, judge_comparison
from labline.references import GateTable
from labline.standing import Stage
from labline.usecase import Corruption
from tasks.evaluate import corrupted_probabilities, probabilities
from tasks.gate_table import gate_table
from tasks.infrastructure import check_infrastructure
from tasks.registry import Registry
from tasks.version import Version, fetch_version, open_test_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from labline.comparison import Comparison
    from labline.data.dataset import Dataset

    Images = npt.NDArray[np.uint8]
    Probabilities = npt.NDArray[np.floating]

PARITY = 0.999  # share of test images on which the fp32 ONNX file must decide as PyTorch; near ties may differ


@dataclass(frozen=True)
class Answers:
    """What a version answers to test images, as they are and corrupted: float N x K each."""

    clean: Probabilities
    corrupted: dict[Corruption, Probabilities]

    def of(self, rows: npt.NDArray[np.bool_]) -> Answers:
        """Those of some rows alone."""
        return Answers(self.clean[rows], {name: answered[rows] for name, answered in self.corrupted.items()})


def judge_version(registry: Registry, number: str, stage: Stage, champion: str | None) -> GateTable:
    """Measure the version anew on this machine and hold it against every gate of `stage`.

    `champion` is the version in Production, if any. Raises BadInput where something needed cannot be had.
    """
    version = fetch_version(registry, number)
    data = open_test_rows(version)
    answers = answer(version, data.split("test")[0], version)
    judgements = [*_declared(version, data, answers), _parity(version), _infrastructure(version)]
    if champion is not None:
        judgements += _against_champion(version, fetch_version(registry, champion), data, answers)
    return gate_table(number, stage, champion, judgements)


def answer(version: Version, images: Images, declared_by: Version) -> Answers:
    """Ask a version's released file about images, corrupted as another version's declaration says."""
    from labline.export.onnx_runtime import session

    model = session(version.onnx, threads=0)
    severities = declared_by.declaration.evaluation.corruptions
    return Answers(probabilities(model, images), corrupted_probabilities(model, images, severities))


def compare_versions(
    challenger: Version, champion: Version, data: Dataset, answers: Answers | None = None
) -> Comparison:
    """Both on the challenger's test rows, without those the champion was trained on; raises BadInput for none left."""
    import pandas as pd

    from labline.comparison import compare

    seen = pd.read_parquet(champion.extra / "manifest.parquet")
    rows = data.rows("test")
    unseen = ~rows["sha256"].isin(seen.loc[seen["split"] != "test", "sha256"]).to_numpy()
    if not unseen.any():
        raise BadInput(f"version {champion.number} was trained on every test row of version {challenger.number}")
    images, targets = data.split("test")
    ours = (answers or answer(challenger, images, challenger)).of(unseen)
    theirs = answer(champion, images[unseen], challenger)
    return compare(
        theirs.clean,
        ours.clean,
        targets[unseen],
        data.labels,
        rows[unseen].reset_index(drop=True),
        challenger.declaration.training.select,
        confidence=challenger.declaration.promotion.confidence,
        corrupted={name: (theirs.corrupted[name], ours.corrupted[name]) for name in ours.corrupted},
    )


def _declared(version: Version, data: Dataset, answers: Answers) -> list[Judgement]:
    """The declared gates, on figures measured here and now."""
    from labline.evaluation import evaluate, named_figures, robustness
    from labline.export.latency import measure

    images, targets = data.split("test")
    severities = version.declaration.evaluation.corruptions
    found = replace(
        evaluate(answers.clean, targets, data.labels, data.rows("test").reset_index(drop=True)),
        robustness=robustness(answers.corrupted, severities, targets),
    )
    figures, intervals = named_figures(found)
    speed = measure({"released": version.onnx}, images[:64]).iloc[0]
    costs = {name: float(speed[name]) for name in ("latency_ms_p50", "latency_ms_p99", "throughput")}
    costs["bytes"] = float(version.onnx.stat().st_size)
    return judge(version.declaration.gates, figures | costs, intervals)


def _parity(version: Version) -> Judgement:
    agreement = float(json.loads(version.tags["parity"])["decision_agreement"])
    return Judgement("ONNX parity", agreement, f"at least {PARITY:g} of decisions as PyTorch's", agreement >= PARITY)


def _infrastructure(version: Version) -> Judgement:
    report = check_infrastructure(version.folder)
    note = "; ".join(report.problems) or f"ready, p50 {report.latency_ms_p50:.3g} ms"
    limit = "answers its input example in a clean process"
    return Judgement("infrastructure", float(report.ok), limit, report.ok, note)


def _against_champion(challenger: Version, champion: Version, data: Dataset, answers: Answers) -> list[Judgement]:
    against = f"version {champion.number}"
    same = challenger.signature == champion.signature
    note = "" if same else f"{against}: {champion.signature}; now: {challenger.signature}"
    signature = Judgement("signature", float(same), f"inputs and outputs of {against}", same, note)
    if not same:
        return [signature]  # the champion cannot be asked about these images, or answers other classes
    compared = compare_versions(challenger, champion, data, answers)
    return [signature, *judge_comparison(compared, challenger.declaration.promotion, against)]
