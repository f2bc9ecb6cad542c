"""Who watches a flow run: the console implements this; a Prefect worker has nobody watching."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from labline.references import GateTable


@dataclass(frozen=True)
class StageRecord:
    """How one stage went: seconds on the wall, whether it was cached, its key figure, and why it ran."""

    name: str
    seconds: float
    cached: bool
    figure: str
    reason: str = ""


class Observer:
    """Is told what happens; this one looks away."""

    def said(self, message: str) -> None:
        """Something a person should know."""

    def started(self, stage: str) -> None:
        """A stage begins."""

    def progressed(self, stage: str, done: float, total: float, text: str) -> None:
        """A stage got from 0 to `done` of `total`."""

    def finished(self, record: StageRecord) -> None:
        """A stage ended well."""

    def failed(self, stage: str) -> None:
        """A stage ended with an error."""

    def judged(self, table: GateTable) -> None:
        """A version was held against its gates."""


observer: ContextVar[Observer] = ContextVar("observer", default=Observer())  # noqa: B039  (it has no state)
