"""The chronicle: which verdicts were given and which retrainings tried, in the database of the ledger.

Every record is written once by its id, so that whoever is not sure whether it was written writes again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Column, Double, Engine, MetaData, Table, Text, create_engine, select, update
from sqlalchemy.dialects import postgresql, sqlite

from labline.database import database_url, make_folder
from labline.retraining import Attempt

_metadata = MetaData()
_verdicts = Table(
    "verdicts",
    _metadata,
    Column("id", Text, primary_key=True),
    Column("usecase", Text, nullable=False, index=True),
    Column("version", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("announced", Double),
)
_attempts = Table(
    "retrainings",
    _metadata,
    Column("id", Text, primary_key=True),
    Column("usecase", Text, nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("content", Text, nullable=False),
)


@dataclass(frozen=True)
class Told:
    """A verdict as it was given; `at` and `announced` are seconds since 1970.

    `content`, ready for JSON, has the reasons and the figures. `run_id` is its MLflow run, empty while there is none;
    `announced` is None until its event was sent.
    """

    id: str
    usecase: str
    version: str
    at: float
    kind: str
    content: dict[str, Any]
    run_id: str = ""
    announced: float | None = None


class Chronicle:
    """Verdicts and attempts of all use cases, at the SQLAlchemy address of the ledger."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._engine: Engine | None = None

    def tell(self, verdict: Told) -> Told:
        """Keep a verdict, and return the one that is kept: an earlier one of the same id stays as it is."""
        row = asdict(verdict) | {"content": json.dumps(verdict.content)}
        self._insert(_verdicts, row)
        kept = self.verdict(verdict.id)
        assert kept is not None
        return kept

    def verdict(self, id: str) -> Told | None:
        """The verdict of this id."""
        found = self._verdicts(_verdicts.c.id == id)
        return found[0] if found else None

    def verdicts(self, usecase: str) -> list[Told]:
        """All verdicts of a use case, oldest first."""
        return self._verdicts(_verdicts.c.usecase == usecase)

    def logged(self, id: str, run_id: str) -> None:
        """Note that a verdict's evidence lies on this MLflow run."""
        self._change(_verdicts, id, run_id=run_id)

    def announced(self, id: str, at: float) -> None:
        """Note that a verdict's event was sent."""
        self._change(_verdicts, id, announced=at)

    def begin(self, attempt: Attempt) -> None:
        """Keep an attempt that begins."""
        self._insert(_attempts, _attempt_row(attempt))

    def change(self, attempt: Attempt, **changed: Any) -> Attempt:
        """Keep what became of an attempt."""
        changed_attempt = replace(attempt, **changed)
        self._change(_attempts, attempt.id, content=_attempt_row(changed_attempt)["content"])
        return changed_attempt

    def attempts(self, usecase: str) -> list[Attempt]:
        """All attempts of a use case, oldest first."""
        chosen = select(_attempts.c.content).where(_attempts.c.usecase == usecase).order_by(_attempts.c.at)
        with self._opened().connect() as connection:
            return [Attempt(**json.loads(content)) for content in connection.scalars(chosen)]

    def close(self) -> None:
        """Give connections back."""
        if self._engine is not None:
            self._engine.dispose()

    def _verdicts(self, which: Any) -> list[Told]:
        chosen = select(_verdicts).where(which).order_by(_verdicts.c.at, _verdicts.c.id)
        with self._opened().connect() as connection:
            rows = [dict(row._mapping) for row in connection.execute(chosen)]
        return [Told(**(row | {"content": json.loads(row["content"])})) for row in rows]

    def _insert(self, table: Table, row: dict[str, Any]) -> None:
        engine = self._opened()
        dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
        with engine.begin() as connection:
            connection.execute(dialect.insert(table).on_conflict_do_nothing(), [row])

    def _change(self, table: Table, id: str, **changed: Any) -> None:
        with self._opened().begin() as connection:
            connection.execute(update(table).where(table.c.id == id).values(changed))

    def _opened(self) -> Engine:
        if self._engine is None:
            engine = create_engine(database_url(self.address), pool_pre_ping=True)
            make_folder(engine)
            _metadata.create_all(engine)
            self._engine = engine
        return self._engine


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    return {"id": attempt.id, "usecase": attempt.usecase, "at": attempt.at, "content": json.dumps(asdict(attempt))}
