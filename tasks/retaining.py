"""Retaining: feedback is kept for as long as the version in Production declares, and then deleted."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.feedback_store import opened_feedback
from tasks.staged import staged_version
from tasks.version import fetch_version


@dataclass(frozen=True)
class Retained:
    """Of how many days feedback is kept, and how many predictions that were older went; shadows counted."""

    days: float
    deleted: int


def retain(usecase: str, days: float | None = None) -> Retained:
    """Delete what is older than so many days; without a number, than `serving.retention_days` of Production.

    Raises BadInput where that is not known, LablineError where the feedback store cannot be used.
    """
    if days is None:
        days = fetch_version(*staged_version(usecase)).declaration.serving.retention_days
    with opened_feedback() as store:
        return Retained(days, store.retain(usecase, days))
