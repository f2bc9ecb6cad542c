"""Giving a verdict: into the chronicle, with its evidence on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labline.chronicle import Told
from labline.ledger import now, tenures
from tasks.chronicles import open_chronicle
from tasks.examine_window import Window, verdict_of, window_identity
from tasks.production_quality import Quality
from tasks.registry import open_registry
from tasks.verdict_evidence import evidence_folder, figures_of, write_evidence, write_pictures
from tasks.watched import Watched

if TYPE_CHECKING:
    from labline.monitoring.examination import Examination


def give(watched: Watched, window: Window, examined: Examination, quality: Quality, page: bool) -> Told:
    """Give the verdict on a window; one that was given on just this before stays as it is."""
    usecase, number, verdict = watched.version.usecase, watched.version.number, verdict_of(examined, quality)
    content = {
        "usecase": usecase,
        "version": number,
        "verdict": verdict.kind,
        "reason": verdict.reasons[0],
        "reasons": list(verdict.reasons),
        "since": since(examined, window),
        "until": window.until,
        "figures": figures_of(examined, window, quality),
    }
    chronicle = open_chronicle()
    told = chronicle.tell(Told(window_identity(watched, window), usecase, number, now(), verdict.kind, content))
    if not told.run_id:
        write_evidence(told, watched, window, examined, quality, page)
        write_pictures(told, chronicle.verdicts(usecase), _events(usecase))
    return told


def since(examined: Examination, window: Window) -> float:
    """Where the new window begins that a retraining is to learn: where inputs changed, or else where losses rose."""
    found = examined.findings
    if found.change is None and examined.verdict.kind != "retrain":
        return window.since
    start = found.change.start if found.change is not None else found.losses.start
    return float(window.rows["at"].iloc[start])


def keep_data_docs(told: Told, folder: Path) -> None:
    """Put the page that Great Expectations made into the verdict's evidence, where there is one."""
    page = folder / "data_docs" / "index.html"
    if page.is_file() and not told.run_id:
        shutil.copy(page, evidence_folder(told) / "data_docs.html")


def summary(told: Told, announced: bool) -> dict[str, Any]:
    """What was found, as one object ready for JSON; `announced`: its event was sent just now."""
    kept = open_chronicle().verdict(told.id) or told
    return {**told.content, "id": told.id, "run_id": kept.run_id, "announced": announced}


def nothing_yet(usecase: str, version: str | None) -> dict[str, Any]:
    """The summary where there is no version, or no prediction of it, to look at."""
    reason = f"version {version} has answered nothing in this window yet" if version else "nothing is in Production yet"
    return {
        "usecase": usecase,
        "version": version,
        "verdict": "healthy",
        "reason": reason,
        "reasons": [reason],
        "since": None,
        "until": None,
        "figures": {"predictions": 0},
        "id": None,
        "run_id": None,
        "announced": False,
    }


def _events(usecase: str) -> list[tuple[float, str]]:
    """When which version came to Production, seconds since 1970."""
    moves = tenures(open_registry(usecase).ledger.entries(usecase))
    return [(move.start, f"version {move.version}, {move.action}") for move in moves if move.stage == "Production"]
