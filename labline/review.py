"""Which predictions are most worth a person's label: the doubtful, the disputed, the strange, and some by lot.

Measured performance needs labels of predictions that nobody chose. So a tenth of all predictions, told by their ids,
is never ranked and only drawn by lot: labels of these (source `review-random`) are an unbiased sample of the traffic,
however the others (source `review`) are picked.

Shape legend: N predictions, K classes, D values of a position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import nlargest
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from labline.familiarity import Familiar, Strangeness, strangeness, unpack_embeddings

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

RANKED, BY_LOT = "review", "review-random"  # sources of labels
KEPT_APART = 0.1  # share of all predictions that are only drawn by lot
BY_LOT_SHARE = 0.2  # of the picks
DISPUTED = 0.9  # worth of a label where the version in shadow says something else
DOUBTFUL = 0.5  # from this worth on, a small margin is a reason
STRANGE = 0.1
COPY = 0.05  # what is left of the worth of a copy: it comes before what nobody doubts, and after all else
# Of `FeedbackStore.window`; all other columns are features.
COLUMNS = frozenset(
    {"id", "at", "version", "role", "answer", "source", "shadow_of", "confidence", "latency_ms", "outputs"}
    | {"embedding", "label", "label_source", "labelled_at"}
)


@dataclass(frozen=True, slots=True)
class Pick:
    """A prediction to be labelled: its id, why, and the source that its label has to name.

    `worth` is 0 to 1; of a pick by lot it is not known, and 0.
    """

    id: str
    worth: float
    reasons: tuple[str, ...]
    source: str


def pick(
    predictions: pd.DataFrame, shadows: pd.DataFrame, versions: Mapping[str, Familiar], count: int
) -> tuple[Pick, ...]:
    """The `count` predictions (fewer where there are not as many) to be labelled next, in this order.

    `predictions` are answered ones as `FeedbackStore.window` gives them, those with a label are left out; `shadows`
    what shadow versions said beside them, alike. `versions` say what is known of the versions that answered.
    One in five is drawn by lot; the others are those of the greatest worth, no two of them alike where there is a
    choice: see `worth` and `spread_out`.
    """
    unlabelled = predictions[predictions["label"].isna()].reset_index(drop=True)
    lot_N = np.array([lot(id) for id in unlabelled["id"]], dtype=np.float64)
    by_lot = np.flatnonzero(lot_N < KEPT_APART)
    by_lot = by_lot[np.argsort(lot_N[by_lot])]
    others = unlabelled[lot_N >= KEPT_APART].reset_index(drop=True)
    drawn = min(len(by_lot), max(round(BY_LOT_SHARE * count), count - len(others)))
    worth_N, reasons = worth(others, shadows, versions)
    chosen = spread_out(worth_N, _positions(others), count - drawn)
    ranked = [Pick(others["id"][i], float(worth_N[i]), reasons[i], RANKED) for i in chosen]
    reason = ("drawn by lot, for an unbiased figure",)
    random = [Pick(unlabelled["id"][i], 0.0, reason, BY_LOT) for i in by_lot[:drawn]]
    return _shuffled_in(ranked, random)


def lot(id: str) -> float:
    """A number in [0, 1) that depends on a prediction's id alone, and so on nothing of its content."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=6).digest()) / 2**48


def worth(
    rows: pd.DataFrame, shadows: pd.DataFrame, versions: Mapping[str, Familiar]
) -> tuple[Floats, list[tuple[str, ...]]]:
    """How much a label of each of N predictions is worth, 0 to 1, and why.

    Three reasons count as if each alone made a label useful with its own probability, 1 - (1-a)(1-b)(1-c):
    doubt, one minus the margin between the two largest probabilities (Settles 2009, "Active learning literature
    survey", section 3.1); another answer of a version in shadow (query by committee, section 3.2); and strangeness to
    the version's reference sample, where uncertainty cannot be trusted.
    """
    doubt_N, doubts = _doubt(rows, versions)
    disputed_N, disputes = _disputes(rows, shadows)
    strange = _strange(rows, versions)
    worth_N = 1 - (1 - doubt_N) * (1 - disputed_N) * (1 - strange.score)
    reasons = []
    for i in range(len(rows)):
        found = (
            doubts[i] if doubt_N[i] >= DOUBTFUL else "",
            disputes[i],
            strange.reasons[i] if strange.score[i] >= STRANGE else "",
        )
        reasons.append(tuple(filter(None, found)) or ("nothing stands out",))
    return worth_N, reasons


def feature_columns(rows: pd.DataFrame) -> list[str]:
    """The columns of a window that tell what the inputs were like."""
    return [name for name in rows.columns if name not in COLUMNS]


def spread_out(worth_N: Floats, position_ND: Floats, count: int) -> list[int]:
    """The places of `count` predictions that are worth most and lie apart, best first.

    Greedily the one of the largest worth times its novelty, 1 - exp(-distance to the nearest one chosen / typical
    distance) and at least COPY: as k-center selection (Sener and Savarese 2018, "Active learning for convolutional
    neural networks: a core-set approach"), weighted by worth.
    """
    typical = np.sqrt(2 * position_ND.var(axis=0).sum()) if len(position_ND) else 0.0
    novelty_N = np.ones(len(worth_N))
    left_N = np.ones(len(worth_N), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(count, len(worth_N))):
        score_N = np.where(left_N, worth_N * novelty_N, -1.0)
        best = int(score_N.argmax())
        chosen.append(best)
        left_N[best] = False
        distance_N = np.linalg.norm(position_ND - position_ND[best], axis=1)
        novelty_N = np.minimum(novelty_N, np.maximum(COPY, -np.expm1(-distance_N / max(typical, 1e-12))))
    return chosen


def _doubt(rows: pd.DataFrame, versions: Mapping[str, Familiar]) -> tuple[Floats, list[str]]:
    """One minus the margin, and the two classes in question; 0 of forecasts, which have no probabilities."""
    doubt_N, told = np.zeros(len(rows)), [""] * len(rows)
    for i, (version, outputs, confidence) in enumerate(
        zip(rows["version"], rows["outputs"], rows["confidence"], strict=True)
    ):
        if not np.isfinite(confidence) or len(outputs) < 2:
            continue
        first, second = nlargest(2, range(len(outputs)), key=outputs.__getitem__)
        doubt_N[i] = min(max(1 - (outputs[first] - outputs[second]), 0.0), 1.0)
        labels = versions.get(version, Familiar()).labels
        names = (labels[first], labels[second]) if len(labels) == len(outputs) else (rows["answer"][i], "the next")
        told[i] = f"uncertain: {outputs[first]:.2f} {names[0]} / {outputs[second]:.2f} {names[1]}"
    return doubt_N, told


def _disputes(rows: pd.DataFrame, shadows: pd.DataFrame) -> tuple[Floats, list[str]]:
    """Where a version in shadow names another class; two versions never forecast the same number."""
    said = {
        of: (version, answer)
        for of, version, answer in zip(shadows["shadow_of"], shadows["version"], shadows["answer"], strict=True)
    }
    disputed_N, told = np.zeros(len(rows)), [""] * len(rows)
    for i, (id, answer, confidence) in enumerate(zip(rows["id"], rows["answer"], rows["confidence"], strict=True)):
        version, other = said.get(id, ("", answer))
        if other != answer and np.isfinite(confidence):
            disputed_N[i] = DISPUTED
            told[i] = f"version {version} in shadow says {other}"
    return disputed_N, told


def _strange(rows: pd.DataFrame, versions: Mapping[str, Familiar]) -> Strangeness:
    """Each prediction against what its own version is familiar with."""
    score_N, reasons = np.zeros(len(rows)), [""] * len(rows)
    for version in rows["version"].unique():
        of_version = np.flatnonzero(rows["version"] == version)
        found = strangeness(rows.iloc[of_version], versions.get(version, Familiar()))
        score_N[of_version] = found.score
        for i, reason in zip(of_version, found.reasons, strict=True):
            reasons[i] = reason
    return Strangeness(score_N, reasons)


def _positions(rows: pd.DataFrame) -> Floats:
    """Where predictions lie to each other: by embedding where one version made all, else by features and outputs."""
    position_ND = unpack_embeddings(list(rows["embedding"])) if rows["version"].nunique() == 1 else None
    if position_ND is None:
        position_ND = rows[feature_columns(rows)].to_numpy(np.float64)
        if len(rows) and rows["outputs"].map(len).nunique() == 1:
            position_ND = np.hstack([position_ND, np.array(rows["outputs"].tolist(), dtype=np.float64)])
    position_ND = np.where(np.isfinite(position_ND), position_ND, np.nan)
    centred_ND = position_ND - _mean(position_ND)
    spread_D = np.sqrt(_mean(centred_ND**2))
    scaled_ND = centred_ND / np.where(spread_D > 1e-12, spread_D, 1.0)
    return np.nan_to_num(scaled_ND)  # what a prediction lacks counts as the mean


def _mean(values_ND: Floats) -> Floats:
    """The mean of each column without NaN; 0 of an empty one."""
    found_ND = np.isfinite(values_ND)
    mean_D: Floats = np.where(found_ND, values_ND, 0).sum(axis=0) / np.maximum(found_ND.sum(axis=0), 1)
    return mean_D


def _shuffled_in(ranked: list[Pick], random: list[Pick]) -> tuple[Pick, ...]:
    """The picks by lot evenly among the ranked ones."""
    places = [((i + 0.5) / len(ranked), each) for i, each in enumerate(ranked)]
    places += [((i + 0.5) / len(random), each) for i, each in enumerate(random)]
    return tuple(each for _, each in sorted(places, key=lambda place: place[0]))
