"""The retraining flow: a challenger made of the champion's data and its labelled feedback, promoted or refused."""

from __future__ import annotations

from typing import Any

from tasks.environment import load_environment, storage_root

load_environment()

from prefect import flow, task  # noqa: E402  (Prefect reads its settings when it is imported)
from prefect.artifacts import create_markdown_artifact  # noqa: E402

from flows.monitoring import PATIENT  # noqa: E402
from flows.promotion import promotion  # noqa: E402
from flows.training import training  # noqa: E402
from labline.errors import RefusedByGate  # noqa: E402
from labline.retraining import Attempt, Objection  # noqa: E402
from tasks import attempting, gathering, moving  # noqa: E402
from tasks.challenger import Duel, compare_with_champion, is_older, stage_of  # noqa: E402
from tasks.gathering import Gathered  # noqa: E402
from tasks.observer import observer  # noqa: E402
from tasks.patience import patiently  # noqa: E402
from tasks.registry import open_registry  # noqa: E402
from tasks.version import fetch_version  # noqa: E402
from tasks.watched import watch  # noqa: E402


@flow(name="retraining", flow_run_name="retraining-{usecase}", persist_result=False)
def retraining(
    usecase: str,
    reason: str = "",
    since: float | None = None,
    until: float | None = None,
    version: str | None = None,
    force: bool = False,
    who: str | None = None,
) -> dict[str, Any]:
    """Retrain the version in Production with its labelled feedback, and promote what comes out by its gates.

    The window from `since` to before `until` (seconds since 1970; default: everything) is held out from; `version` is
    the one that the verdict was about. `force` overrules cool-down, budget and patience. One at a time: a second one
    ends saying so, one that was killed is gone on with. Returns the summary that `labline retrain --json` prints.
    Raises BadInput, LablineError, or RefusedByGate for a challenger that is not promoted.
    """
    with attempting.alone_in_retraining(usecase) as mine:
        if not mine:
            return hold(usecase, Objection(f"another retraining of {usecase} is going on: one is enough"))
        begun = begin(usecase, reason, since, until, version, force)
        if begun.attempt is None:
            return hold(usecase, begun.objection or Objection(""))
        with attempting.ending_badly(begun.attempt):
            gathered = gather(begun.attempt)
            if gathered is None:
                return nothing(begun.attempt, "there are too few new labels to learn from")
            attempt = train_challenger(begun.attempt, gathered)
            if patiently(lambda: is_older(open_registry(usecase), attempt.version, attempt)):
                return nothing(attempt, f"version {attempt.version} has learned from just this before")
            duel = judge_parts(attempt)
            promote(attempt, who)
        return conclude(attempt, gathered, duel)


@task(name="begin", task_run_name="begin", **PATIENT)
def begin(
    usecase: str, reason: str, since: float | None, until: float | None, version: str | None, force: bool
) -> attempting.Begun:
    """Whether it may be tried now, and the attempt."""
    return attempting.begin(watch(usecase), reason, since, until, version, force)


@task(name="gather", task_run_name="gather", **PATIENT)
def gather(attempt: Attempt) -> Gathered | None:
    """The next training set: original data and labelled feedback, with a hold-out from the new window."""
    gathered = gathering.gather(fetch_version(open_registry(attempt.usecase), attempt.champion), attempt)
    if gathered is not None:
        observer.get().said(f"feedback that joins: {gathered.counts}; left out: {gathered.left_out or 'none'}")
        show(attempt.usecase, "feedback", gathering.as_markdown(gathered))
    return gathered


def train_challenger(attempt: Attempt, gathered: Gathered) -> Attempt:
    """The training flow, from raw data to a registered version; what a killed attempt finished is not done again."""
    path, reason = str(storage_root() / gathered.declaration), f"version {attempt.champion} retrained: {attempt.reason}"
    named = training.with_options(flow_run_name=f"training-{attempt.usecase}")  # not by its path
    summary = patiently(lambda: named(path, reason=reason))
    return attempting.trained(attempt, str(summary["version"]))


@task(name="compare", task_run_name="compare", **PATIENT)
def judge_parts(attempt: Attempt) -> Duel:
    """Champion and challenger on the old test set and on the new window."""
    return compare_with_champion(open_registry(attempt.usecase), attempt, attempt.version)


def promote(attempt: Attempt, who: str | None) -> None:
    """Staging, then Production, by the gates of each; what is refused for Production leaves Staging."""
    registry = open_registry(attempt.usecase)
    reason = f"retrained: {attempt.reason}"

    def move_to(stage: str, *there: str) -> None:
        if stage_of(registry, attempt.version) not in there:
            promotion(attempt.usecase, attempt.version, stage, reason, who)

    def leave_staging() -> None:
        if stage_of(registry, attempt.version) == "Staging":
            moving.archive(registry, attempt.version, f"refused for Production; {reason}", who)

    patiently(lambda: move_to("staging", "Staging", "Production"))
    try:
        patiently(lambda: move_to("production", "Production"))
    except RefusedByGate:
        patiently(leave_staging)
        raise


def conclude(attempt: Attempt, gathered: Gathered, duel: Duel) -> dict[str, Any]:
    """The challenger is the champion now."""
    note = f"version {attempt.version} took the place of version {attempt.champion}"
    attempting.end(attempt, "promoted", note)
    show(attempt.usecase, "retraining", f"**promoted**: {note}\n\n{duel.verdict}")
    return {**outcome(attempt.usecase, "promoted", note), **facts(attempt, gathered, duel)}


def nothing(attempt: Attempt, note: str) -> dict[str, Any]:
    """There is nothing to learn."""
    attempting.end(attempt, "nothing", note)
    show(attempt.usecase, "retraining", f"**nothing to do**: {note}")
    return outcome(attempt.usecase, "nothing", note)


def hold(usecase: str, objection: Objection) -> dict[str, Any]:
    """Nothing is retrained now; where retraining does not help, whoever listens is told."""
    kind = "exhausted" if objection.exhausted else "held"
    if objection.exhausted:
        attempting.tell_exhausted(usecase, objection)
    show(usecase, "retraining", f"**{kind}**: {objection.reason}")
    return outcome(usecase, kind, objection.reason)


def outcome(usecase: str, kind: str, note: str) -> dict[str, Any]:
    """What every summary has."""
    return {"usecase": usecase, "outcome": kind, "note": note}


def facts(attempt: Attempt, gathered: Gathered, duel: Duel) -> dict[str, Any]:
    """What the summary of a retraining has besides."""
    return {
        "attempt": attempt.id,
        "reason": attempt.reason,
        "champion": attempt.champion,
        "version": attempt.version,
        "feedback": gathered.counts,
        "left_out": gathered.left_out,
        "parts": duel.parts,
        "comparison": duel.verdict,
    }


def show(usecase: str, name: str, markdown: str) -> None:
    """Leave a note on the Prefect page."""
    create_markdown_artifact(key=f"{usecase}-{name}", markdown=markdown, description=f"{usecase}: {name}")
