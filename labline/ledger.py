"""The ledger of stage changes: append-only, who moved which version when, why and on what evidence.

MLflow keeps no such trail (mlflow/mlflow#2169). Every move is written twice: as an intent before the registry is
touched, and as done after; an intent that was never done is what a killed process leaves, and is finished later.
Entries carry the sha256 of the entry before, so that a later change shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import DDL, Column, Engine, Integer, MetaData, String, Table, Text, create_engine, event, insert, select

from labline.database import database_url, make_folder
from labline.standing import Stage, Standing

Kind = Literal["intent", "done", "abandoned", "observed", "refused", "asked", "approved", "rejected"]
SETTLED: tuple[Kind, ...] = ("done", "observed")

_metadata = MetaData()
_entries = Table(
    "stage_changes",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("usecase", String(256), nullable=False, index=True),
    Column("content", Text, nullable=False),
    Column("digest", String(64), nullable=False),
)
for _action in ("UPDATE", "DELETE"):
    _refusal = DDL(  # type: ignore[no-untyped-call]
        f"CREATE TRIGGER no_{_action.lower()} BEFORE {_action} ON stage_changes "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    )
    event.listen(_entries, "after_create", _refusal.execute_if(dialect="sqlite"))


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    `kind`: an `intent` and the `done` after it share `move` (`abandoned` where it was overtaken by hand); `observed`
    is what somebody did by hand in MLflow, of one version or several; `refused` by the gates, `asked` for approval
    (until `deadline`), `approved` and `rejected` by a person, which share the `move` of the question, change nothing.
    `evidence` is the sha256 of the gates' table; `at` and `deadline` are seconds since 1970.
    """

    kind: Kind
    move: str
    action: str
    version: str
    at: float
    who: str
    why: str
    before: Standing
    after: Standing
    evidence: str = ""
    deadline: float | None = None


@dataclass(frozen=True)
class Tenure:
    """A version in a stage, from a moment to another (None: until now), and the move that put it there.

    `moved` is the version that was moved: another one, where this one was displaced by it.
    """

    version: str
    stage: Stage
    start: float
    end: float | None
    action: str
    moved: str
    who: str
    why: str
    evidence: str


class Ledger:
    """The entries of all use cases in one database, by its SQLAlchemy address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._engine: Engine | None = None

    def append(self, usecase: str, entry: Entry) -> None:
        """Write one entry; it is on disk when this returns."""
        content = _dumped(entry)
        with self._opened().begin() as connection:
            newest = select(_entries.c.digest).where(_entries.c.usecase == usecase).order_by(_entries.c.number.desc())
            before = connection.execute(newest.limit(1)).scalar() or ""
            row = {"usecase": usecase, "content": content, "digest": _chained(before, content)}
            connection.execute(insert(_entries).values(row))

    def entries(self, usecase: str) -> list[Entry]:
        """All entries of a use case, oldest first."""
        return [_loaded(content) for content, _ in self._rows(usecase)]

    def tampered(self, usecase: str) -> int | None:
        """The position, from 1, of the first entry that is not what was written; None where all are."""
        before = ""
        for position, (content, digest) in enumerate(self._rows(usecase), start=1):
            before = _chained(before, content)
            if digest != before:
                return position
        return None

    def _rows(self, usecase: str) -> list[tuple[str, str]]:
        chosen = select(_entries.c.content, _entries.c.digest).where(_entries.c.usecase == usecase)
        with self._opened().connect() as connection:
            return [(content, digest) for content, digest in connection.execute(chosen.order_by(_entries.c.number))]

    def _opened(self) -> Engine:
        if self._engine is None:
            engine = create_engine(database_url(self.address), pool_pre_ping=True)
            make_folder(engine)
            if engine.dialect.name == "sqlite" and engine.url.database:
                event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = FULL"))
            _metadata.create_all(engine)
            self._engine = engine
        return self._engine


def standing(entries: Sequence[Entry], moment: float | None = None) -> Standing:
    """Where versions stand, by what was done or seen; at `moment` (seconds since 1970), or now."""
    settled = [entry for entry in entries if entry.kind in SETTLED and (moment is None or entry.at <= moment)]
    return settled[-1].after if settled else Standing()


def unfinished(entries: Sequence[Entry]) -> Entry | None:
    """The last intent, if it was never done."""
    done = {entry.move for entry in entries if entry.kind in ("done", "abandoned")}
    intents = [entry for entry in entries if entry.kind == "intent"]
    return intents[-1] if intents and intents[-1].move not in done else None


def outcome(entry: Entry, entries: Iterable[Entry]) -> str:
    """What came of an entry that moved nothing: its kind, or "timed out" for a question that nobody answered."""
    if entry.kind != "asked" or entry.deadline is None or entry.deadline > now():
        return entry.kind
    answered = any(each.kind in ("approved", "rejected") and each.move == entry.move for each in entries)
    return "asked" if answered else "timed out"


def tenures(entries: Iterable[Entry]) -> list[Tenure]:
    """Which version was in which stage from when to when, oldest first; stage None is left out."""
    open_ones: dict[str, Tenure] = {}
    closed: list[Tenure] = []
    for entry in entries:
        if entry.kind not in SETTLED:
            continue
        for version in sorted(entry.before.named | entry.after.named, key=int):
            stage = entry.after.stage_of(version)
            current = open_ones.get(version)
            if stage == (current.stage if current else "None"):
                continue
            if current:
                closed.append(Tenure(**(asdict(open_ones.pop(version)) | {"end": entry.at})))
            if stage != "None":
                open_ones[version] = Tenure(
                    version, stage, entry.at, None, entry.action, entry.version, entry.who, entry.why, entry.evidence
                )
    return sorted([*closed, *open_ones.values()], key=lambda tenure: (tenure.start, int(tenure.version)))


def now() -> float:
    """Seconds since 1970."""
    return datetime.now(UTC).timestamp()


def _dumped(entry: Entry) -> str:
    written = asdict(entry) | {"before": entry.before.as_json(), "after": entry.after.as_json()}
    return json.dumps(written, sort_keys=True)


def _loaded(content: str) -> Entry:
    written = json.loads(content)
    before, after = Standing.from_json(written["before"]), Standing.from_json(written["after"])
    return Entry(**{**written, "before": before, "after": after})


def _chained(before: str, content: str) -> str:
    return hashlib.sha256(f"{before}\n{content}".encode()).hexdigest()
