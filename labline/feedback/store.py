"""Where predictions and their labels are kept: SQLite by default, PostgreSQL by address.

Writing is idempotent by id, so that whoever is not sure writes again. Of several labels the latest counts, and all
are kept. What was deleted on request leaves a tombstone and is dropped when it comes again.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from sqlalchemy import Connection, Engine, Table, delete, func, or_, select, text
from sqlalchemy.dialects import postgresql, sqlite

from labline.feedback import reading
from labline.feedback.connecting import engine_of, make_tables
from labline.feedback.records import Label, Prediction, Role
from labline.feedback.tables import inputs, labels, predictions, tombstones

if TYPE_CHECKING:
    import pandas as pd

SECONDS_A_DAY = 86_400
AT_ONCE = 500  # values in one statement: SQLite's oldest limit is 999
RETAINED_AT_ONCE = 5_000  # rows in one transaction, so that retention never holds a writer up for long
DELETION_LOCK = 5_204_761_138  # any number, the same in every process
ANSWERED: tuple[Role, ...] = ("production", "canary")


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of a use case is kept: answered predictions, shadows beside them, and answered ones with a label.

    `oldest` and `newest` are moments of answered predictions, NaN where there are none; `inputs` counts kept inputs.
    """

    predictions: int
    shadows: int
    labelled: int
    inputs: int
    oldest: float
    newest: float
    versions: dict[str, int]


class FeedbackStore:
    """The feedback of all use cases at a SQLAlchemy address; nothing is connected or made before it is needed.

    Raises BadInput for an address of no database that it knows. Threads and processes may share a store. Where it
    cannot be reached, methods raise what SQLAlchemy raises (`sqlalchemy.exc.OperationalError`), and work again when
    it is back.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._engine = engine_of(address)
        self._ready = False
        self._opening = threading.Lock()

    def write(self, records: Sequence[Prediction | Label]) -> int:
        """Store records in one transaction, durable when this returns; ids that are there already stay as they are.

        Returns how many were dropped because their prediction, or the one they accompany, was deleted on request.
        """
        found = [each for each in records if isinstance(each, Prediction)]
        said = [each for each in records if isinstance(each, Label)]
        kept = [{"prediction": each.id, "content": each.input} for each in found if each.input]
        with self._opened().begin() as connection:
            _keep_apart(connection, exclusive=False)
            _insert(connection, predictions, [_row(each) for each in found])
            _insert(connection, inputs, kept)
            _insert(connection, labels, [_label_row(each) for each in said])
            # After the inserts, never before: with them SQLite has let this transaction in alone.
            named = [each.id for each in found] + [each.shadow_of for each in found if each.shadow_of]
            gone = _buried(connection, named + [each.prediction for each in said])
            if not gone:
                return 0
            _erase(connection, gone)
        shadows = sum(each.id in gone or each.shadow_of in gone for each in found)
        return shadows + sum(each.prediction in gone for each in said)

    def window(
        self,
        usecase: str,
        *,
        since: float | None = None,
        until: float | None = None,
        last: int | None = None,
        versions: Sequence[str] | None = None,
        role: Sequence[Role] = ANSWERED,
    ) -> pd.DataFrame:
        """Predictions with their latest label, oldest first, from `since` to before `until` (seconds since 1970).

        Of these only the `last` so many, of these `versions`, in these roles. Columns: id, at, version, role, answer,
        confidence, latency_ms, outputs (list of K floats), embedding (bytes), shadow_of, source, label (None where
        none came back), label_source, labelled_at, and one column a feature (NaN where a prediction has it not).
        """
        chosen = [predictions.c.usecase == usecase, predictions.c.role.in_(role)]
        if since is not None:
            chosen.append(predictions.c.at >= since)
        if until is not None:
            chosen.append(predictions.c.at < until)
        if versions is not None:
            chosen.append(predictions.c.version.in_(versions))
        with self._opened().connect() as connection:
            return reading.window(connection, chosen, last)

    def inputs(self, ids: Iterable[str]) -> dict[str, bytes]:
        """The kept inputs of these predictions; those without one are left out."""
        with self._opened().connect() as connection:
            return {
                row.prediction: row.content
                for some in _batches(ids)
                for row in connection.execute(select(inputs).where(inputs.c.prediction.in_(some)))
            }

    def labels(self, prediction: str) -> list[Label]:
        """Every label that came back for a prediction; the last one counts."""
        chosen = select(labels).where(labels.c.prediction == prediction)
        with self._opened().connect() as connection:
            return [Label(**row._mapping) for row in connection.execute(chosen.order_by(*reading.LATEST_LAST))]

    def known(self, prediction: str) -> bool:
        """Whether a prediction of this id is stored."""
        with self._opened().connect() as connection:
            return connection.scalar(select(predictions.c.id).where(predictions.c.id == prediction)) is not None

    def counts(self, usecase: str) -> Counts:
        """How much of a use case is kept."""
        with self._opened().connect() as connection:
            return Counts(**reading.counts(connection, usecase, ANSWERED))

    def delete(self, ids: Iterable[str]) -> int:
        """Delete predictions with their inputs, labels and shadows, for good; returns how many were stored.

        Ids that are not stored (yet) leave a tombstone too: what a journal still holds of them is dropped when it is
        drained. On SQLite the bytes are overwritten, and the write-ahead log is emptied unless somebody is reading.
        """
        deleted = 0
        for some in _batches(ids):
            with self._opened().begin() as connection:
                _keep_apart(connection, exclusive=True)
                _insert(connection, tombstones, [{"prediction": each, "at": time.time()} for each in some])
                deleted += _erase(connection, some)
        self._empty_write_ahead_log()
        return deleted

    def retain(self, usecase: str, days: float) -> int:
        """Delete the predictions of a use case that are older than so many days, with all that belongs to them.

        Also labels that have waited as long for a prediction that never came. Returns how many predictions went.
        """
        before = time.time() - days * SECONDS_A_DAY
        oldest = select(predictions.c.id).where(predictions.c.usecase == usecase, predictions.c.at < before)
        deleted = 0
        while True:
            with self._opened().begin() as connection:
                some = list(connection.scalars(oldest.order_by(predictions.c.at).limit(RETAINED_AT_ONCE)))
            if not some:
                break
            for each in _batches(some):
                with self._opened().begin() as connection:
                    deleted += _erase(connection, each)
        answered = select(predictions.c.id).where(predictions.c.id == labels.c.prediction).exists()
        with self._opened().begin() as connection:
            connection.execute(delete(labels).where(labels.c.received < before, ~answered))
        self._empty_write_ahead_log()
        return deleted

    def close(self) -> None:
        """Give connections back; the store opens again when it is used."""
        self._engine.dispose()

    def _opened(self) -> Engine:
        with self._opening:
            if not self._ready:
                make_tables(self._engine)
                self._ready = True
        return self._engine

    def _empty_write_ahead_log(self) -> None:
        engine = self._opened()
        if engine.dialect.name == "sqlite":
            with engine.connect() as connection:
                connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))


def _row(prediction: Prediction) -> dict[str, Any]:
    return {
        "id": prediction.id,
        "usecase": prediction.usecase,
        "version": prediction.version,
        "role": prediction.role,
        "at": prediction.at,
        "answer": prediction.answer,
        "confidence": None if math.isnan(prediction.confidence) else prediction.confidence,
        "outputs": np.asarray(prediction.outputs, "<f4").tobytes(),
        "latency_ms": prediction.latency_ms,
        "features": orjson.dumps(prediction.features).decode(),
        "embedding": prediction.embedding or None,
        "shadow_of": prediction.shadow_of or None,
        "source": prediction.source,
    }


def _label_row(label: Label) -> dict[str, Any]:
    return {name: getattr(label, name) for name in Label.__slots__}


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert what is not there yet."""
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)


def _keep_apart(connection: Connection, exclusive: bool) -> None:
    """Let no deletion run beside a write that does not see its tombstones yet; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        lock = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
        connection.execute(text(f"SELECT {lock}(:number)"), {"number": DELETION_LOCK})


def _buried(connection: Connection, ids: list[str]) -> set[str]:
    """Those of the ids that were deleted on request."""
    if connection.scalar(select(func.count()).select_from(select(tombstones).limit(1).subquery())) == 0:
        return set()
    chosen = tombstones.c.prediction
    return {id for some in _batches(ids) for id in connection.scalars(select(chosen).where(chosen.in_(some)))}


def _erase(connection: Connection, ids: Iterable[str]) -> int:
    """Delete predictions, their shadows, and the inputs and labels of both; returns how many predictions went."""
    erased = 0
    for some in _batches(ids):
        shadows = list(connection.scalars(select(predictions.c.id).where(predictions.c.shadow_of.in_(some))))
        for each in _batches([*some, *shadows]):
            connection.execute(delete(inputs).where(inputs.c.prediction.in_(each)))
            connection.execute(delete(labels).where(labels.c.prediction.in_(each)))
        belonging = or_(predictions.c.id.in_(some), predictions.c.shadow_of.in_(some))
        erased += connection.execute(delete(predictions).where(belonging)).rowcount
    return erased


def _batches(ids: Iterable[str]) -> Iterator[list[str]]:
    every = list(dict.fromkeys(ids))
    for start in range(0, len(every), AT_ONCE):
        yield every[start : start + AT_ONCE]
