"""Examining a window: the latest predictions of the version in Production against its reference."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labline.monitoring.verdict import Verdict
from tasks.feedback_store import opened_feedback
from tasks.production_quality import Quality
from tasks.registry import open_registry
from tasks.watched import Watched, metric_of, previous_version, reference_of, shifted_reference_of

if TYPE_CHECKING:
    import pandas as pd

    from labline.feedback import FeedbackStore
    from labline.monitoring.examination import Examination
    from labline.monitoring.performance import Performance


@dataclass(frozen=True)
class Window:
    """Predictions of a version, as `FeedbackStore.window` gives them, and how many it has answered in all.

    `predecessor`: how good the version before was at its last, where that may matter.
    """

    rows: pd.DataFrame
    answered: int
    predecessor: Performance | None

    @property
    def since(self) -> float:
        """The moment of the first prediction, seconds since 1970."""
        return float(self.rows["at"].iloc[0])

    @property
    def until(self) -> float:
        """The moment of the last prediction."""
        return float(self.rows["at"].iloc[-1])


def read_window(watched: Watched, since: float | None, most: int | None) -> Window:
    """The latest predictions of the version, `most` of them at most (default: monitoring.window), from `since` on."""
    version, rules = watched.version, watched.rules
    with opened_feedback() as store:
        rows = store.window(version.usecase, since=since, last=most or rules.window, versions=[version.number])
        answered = store.counts(version.usecase).versions.get(version.number, 0)
        recent = 0 < answered <= rules.rollback_within
        predecessor = _predecessor(watched, store) if recent else None
    return Window(rows, answered, predecessor)


def examine_window(watched: Watched, window: Window) -> Examination | None:
    """Drift, estimated and measured performance, and the verdict; None where there is no prediction."""
    from labline.monitoring.examination import examine, prepare

    version = watched.version
    if window.rows.empty:
        return None
    examiner = prepare(reference_of(version), watched.rules, shifted_reference_of(version), watched.metric)
    return examine(examiner, window.rows, window.predecessor, window.answered)


def verdict_of(examined: Examination, quality: Quality) -> Verdict:
    """The verdict, in which bad data is at least worth a look."""
    verdict = examined.verdict
    if not quality.problems:
        return verdict
    reasons = tuple(f"data quality: {problem}" for problem in quality.problems)
    kind = "watch" if verdict.kind == "healthy" else verdict.kind
    return Verdict(kind, (*reasons, *(() if verdict.kind == "healthy" else verdict.reasons)))


def window_identity(watched: Watched, window: Window) -> str:
    """sha256 of what a verdict rests on: the version, its rules, the predictions and their labels."""
    import pandas as pd

    version = watched.version
    digest = hashlib.sha256(f"{version.usecase}\0{version.number}\0{watched.rules.model_dump_json()}\0".encode())
    labelled = window.rows[["id", "label"]].astype(str)
    digest.update(pd.util.hash_pandas_object(labelled, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def _predecessor(watched: Watched, store: FeedbackStore) -> Performance | None:
    """What labels said of the version before, in its last window."""
    from labline.monitoring.performance import performance
    from labline.monitoring.samples import reference_samples, window_samples

    version = watched.version
    previous = previous_version(open_registry(version.usecase), watched)
    if previous is None or not (previous.extra / "reference.parquet").is_file():
        return None
    rows = store.window(version.usecase, last=watched.rules.window, versions=[previous.number])
    if rows.empty:
        return None
    reference = reference_of(previous)
    return performance(reference_samples(reference), window_samples(rows, reference), metric_of(previous))
