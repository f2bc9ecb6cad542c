"""The monitoring flow: what production saw lately against what its version was tested on, and a verdict on it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tasks.environment import load_environment

load_environment()

from prefect import flow, task  # noqa: E402  (Prefect reads its settings when it is imported)
from prefect.cache_policies import NO_CACHE  # noqa: E402
from pydantic import PositiveInt  # noqa: E402

from labline.chronicle import Told  # noqa: E402
from labline.monitoring.examination import Examination  # noqa: E402
from tasks.chronicles import open_chronicle  # noqa: E402
from tasks.examine_window import Window, examine_window, read_window  # noqa: E402
from tasks.giving import give, keep_data_docs, nothing_yet, summary  # noqa: E402
from tasks.patience import DELAYS, worth_waiting  # noqa: E402
from tasks.production_quality import Quality, check_window  # noqa: E402
from tasks.registry import open_registry  # noqa: E402
from tasks.telling import announce_verdict, log_verdicts, show_on_prefect  # noqa: E402
from tasks.watched import Watched, in_production, watch  # noqa: E402

PATIENT: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": len(DELAYS),
    "retry_delay_seconds": DELAYS,
    "retry_condition_fn": worth_waiting,
}


@flow(name="monitoring", flow_run_name="monitoring-{usecase}", persist_result=False)
def monitoring(
    usecase: str,
    since: float | None = None,
    window: PositiveInt | None = None,
    page: bool = True,
    required: bool = True,
) -> dict[str, Any]:
    """Examine the latest predictions of the version in Production and give a verdict.

    Of the predictions from `since` on (seconds since 1970) the last `window` (default: monitoring.window); `page`
    attaches Evidently's drift report where that is installed. The same window again is the same verdict, told once.
    Returns the summary that `labline monitor --json` prints. Raises BadInput where nothing is in Production, unless
    that is not `required`.
    """
    watched = find_watched(usecase, required)
    if watched is None:
        return nothing_yet(usecase, None)
    recent = read_predictions(watched, since, window)
    examined = examine_predictions(watched, recent)
    if examined is None:
        return nothing_yet(usecase, watched.version.number)
    with tempfile.TemporaryDirectory() as scratch:
        quality = check_quality(watched, recent, Path(scratch))
        told = give_verdict(watched, recent, examined, quality, Path(scratch), page)
    log_evidence(usecase)
    return summary(told, announced=announce(told))


@task(name="find", task_run_name="find", **PATIENT)
def find_watched(usecase: str, required: bool = True) -> Watched | None:
    """The version in Production and its files; where there is none, BadInput or None."""
    return watch(usecase) if required or in_production(usecase) else None


@task(name="read", task_run_name="read", cache_policy=NO_CACHE)
def read_predictions(watched: Watched, since: float | None, window: int | None) -> Window:
    """Its latest predictions, with what is true of them by now."""
    return read_window(watched, since, window)


@task(name="examine", task_run_name="examine", **PATIENT)
def examine_predictions(watched: Watched, recent: Window) -> Examination | None:
    """Drift of inputs and answers, performance as estimated and as measured."""
    return examine_window(watched, recent)


@task(name="quality", task_run_name="quality", cache_policy=NO_CACHE)
def check_quality(watched: Watched, recent: Window, folder: Path) -> Quality:
    """The Great Expectations suite of the use case, on what production shows of it."""
    return check_window(watched, recent.rows, folder)


@task(name="verdict", task_run_name="verdict", cache_policy=NO_CACHE)
def give_verdict(
    watched: Watched, recent: Window, examined: Examination, quality: Quality, folder: Path, page: bool
) -> Told:
    """The verdict with its reasons, in the chronicle and with its evidence on disk."""
    told = give(watched, recent, examined, quality, page)
    keep_data_docs(told, folder)
    show_on_prefect(told)
    return told


@task(name="log", task_run_name="log", **PATIENT)
def log_evidence(usecase: str) -> None:
    """The evidence on MLflow, with that of earlier verdicts which could not be logged then; tags on the version."""
    log_verdicts(open_registry(usecase), open_chronicle())


@task(name="announce", task_run_name="announce", cache_policy=NO_CACHE)
def announce(told: Told) -> bool:
    """The event, once."""
    return announce_verdict(open_chronicle(), told)
