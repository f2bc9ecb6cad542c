"""Attempts at retraining: one at a time, as rarely as declared, each with what came of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid4, uuid5

from labline.errors import LablineError, RefusedByGate
from labline.ledger import now
from labline.retraining import Attempt, Objection, Outcome, objection
from tasks.chronicles import open_chronicle
from tasks.environment import storage_root
from tasks.gathering import refuse_series
from tasks.telling import send
from tasks.turn import hold

if TYPE_CHECKING:
    from tasks.watched import Watched

MOST_TRIES = 3  # of one attempt that is killed or loses its servers each time


@dataclass(frozen=True)
class Begun:
    """An attempt that may go on, or why there is none."""

    attempt: Attempt | None
    objection: Objection | None = None


@contextlib.contextmanager
def alone_in_retraining(usecase: str) -> Iterator[bool]:
    """Be the only one who retrains this use case; yields False, at once, where somebody else does."""
    with hold(storage_root() / "retraining" / f"{usecase}.lock", waiting=None) as mine:
        yield mine


def begin(
    watched: Watched, reason: str, since: float | None, until: float | None, version: str | None, force: bool
) -> Begun:
    """Begin an attempt, or go on with the one that was killed; the caller holds `alone_in_retraining`.

    `version` is the one that a verdict was about: where another is in Production by now, there is nothing to do.
    `force` overrules cool-down, budget and patience. Raises BadInput for a version of a series.
    """
    refuse_series(watched.version)
    chronicle = open_chronicle()
    usecase, champion = watched.version.usecase, watched.version.number
    attempts = chronicle.attempts(usecase)
    for unfinished in (each for each in attempts if each.outcome == "open"):
        if champion not in (unfinished.champion, unfinished.version):
            chronicle.change(unfinished, outcome="abandoned", note=f"version {champion} is in Production by now")
        elif unfinished.tries >= MOST_TRIES:
            chronicle.change(unfinished, outcome="failed", note=f"did not end in {MOST_TRIES} tries")
        else:
            return Begun(chronicle.change(unfinished, tries=unfinished.tries + 1))
    if version is not None and version != champion:
        return Begun(None, Objection(f"the verdict was on version {version}, and version {champion} is in Production"))
    rules = watched.version.declaration.retraining
    refused = None if force else objection(chronicle.attempts(usecase), rules, champion, now())
    if refused is not None:
        return Begun(None, refused)
    attempt = Attempt(uuid4().hex, usecase, champion, reason or "asked for", now(), since or 0.0, until or now())
    chronicle.begin(attempt)
    return Begun(attempt)


def trained(attempt: Attempt, version: str) -> Attempt:
    """Note which version an attempt made."""
    return open_chronicle().change(attempt, version=version)


def end(attempt: Attempt, outcome: Outcome, note: str) -> Attempt:
    """Note what came of an attempt."""
    return open_chronicle().change(attempt, outcome=outcome, note=note)


@contextlib.contextmanager
def ending_badly(attempt: Attempt) -> Iterator[None]:
    """Note what came of an attempt that is refused or fails; what a lost server or a kill broke off stays open."""
    try:
        yield
    except RefusedByGate as error:
        end(open_attempt(attempt), "refused", str(error))
        raise
    except LablineError as error:
        end(open_attempt(attempt), "failed", str(error))
        raise


def open_attempt(attempt: Attempt) -> Attempt:
    """The attempt as it stands in the chronicle now."""
    return next(each for each in open_chronicle().attempts(attempt.usecase) if each.id == attempt.id)


def tell_exhausted(usecase: str, found: Objection) -> None:
    """Send `labline.retraining.exhausted`, once for the last attempt that was refused."""
    if not os.environ.get("PREFECT_API_URL"):
        return
    last = open_chronicle().attempts(usecase)[-1]
    payload = {"usecase": usecase, "champion": last.champion, "reason": found.reason}
    send("labline.retraining.exhausted", usecase, uuid5(NAMESPACE_OID, last.id), payload)
