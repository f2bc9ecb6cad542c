"""Moving versions between stages: what each move asks for first, and what it leaves in the ledger."""

from __future__ import annotations

from uuid import uuid4

from labline.errors import BadInput, LablineError
from labline.ledger import Entry, Kind, now
from labline.references import GateTable
from labline.standing import ALIASES, archived, promoted, rolled_back
from tasks.infrastructure import check_infrastructure
from tasks.registry import Registry, alone, person
from tasks.version import fetch_version


class HasLeft(LablineError):
    """The version that was to leave Production is not there any more."""


def promote(registry: Registry, table: GateTable, reason: str, who: str | None, forced: bool = False) -> Entry:
    """Move the judged version to the stage it was judged for.

    Raises LablineError where Production is no longer the one it was compared with.
    """
    stage = next(stage for stage in ALIASES.values() if stage == table.stage)
    with alone(registry.usecase):
        registry.reconcile()
        standing = registry.standing()
        if stage == "Production" and standing.production != table.champion:
            raise LablineError(
                f"Production of {registry.usecase} went from {_named(table.champion)} to "
                f"{_named(standing.production)} while version {table.version} was judged: promote it again"
            )
        why = reason or ("forced although gates refuse it" if forced else "passed its gates")
        tags = {"promoted.by": who or person(), "promoted.why": why}
        action = "forced promotion" if forced else "promotion"
        after = promoted(standing, table.version, stage)
        return registry.move(action, table.version, after, why, who, table.digest, tags)


def roll_back(
    registry: Registry, reason: str, who: str | None = None, force: bool = False, leaving: str | None = None
) -> Entry:
    """Restore the version that was in Production before, once it has answered in a clean process.

    Raises HasLeft where `leaving` is named and not the one in Production: somebody was faster.
    """
    with alone(registry.usecase):
        registry.reconcile()
        standing = registry.standing()
        if leaving is not None and standing.production != leaving:
            raise HasLeft(f"{registry.usecase} version {leaving} is not in Production any more: nothing is rolled back")
        after = rolled_back(standing)
        target = str(after.production)
        if not force:
            _load_test(registry, target)
        return registry.move("rollback", target, after, reason or "rolled back", who)


def archive(registry: Registry, version: str, reason: str, who: str | None = None) -> Entry:
    """Take a version out of its stage, whichever that is."""
    with alone(registry.usecase):
        registry.reconcile()
        standing = registry.standing()
        number = str(registry.version(version).version)
        if standing.stage_of(number) == "Archived":
            raise BadInput(f"{registry.usecase} version {number} is Archived already")
        return registry.move("archive", number, archived(standing, number), reason or "archived", who)


def write_down(
    registry: Registry,
    kind: Kind,
    table: GateTable,
    why: str,
    who: str | None = None,
    deadline: float | None = None,
    question: str = "",
) -> Entry:
    """Leave in the ledger what moves nothing: `refused`, or `asked` and its answer, which share their `question`."""
    standing = registry.standing()
    action = f"promotion to {table.stage}"
    by = who or person()
    move = question or uuid4().hex
    entry = Entry(kind, move, action, table.version, now(), by, why, standing, standing, table.digest, deadline)
    registry.note(entry)
    return entry


def _load_test(registry: Registry, version: str) -> None:
    report = check_infrastructure(fetch_version(registry, version).folder)
    if not report.ok:
        raise LablineError(
            f"{registry.usecase} version {version} does not start and is not restored: {'; '.join(report.problems)}. "
            "Promote another version, or use --force"
        )


def _named(version: str | None) -> str:
    return f"version {version}" if version else "no version"
