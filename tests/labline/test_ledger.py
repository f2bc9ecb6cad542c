"""The ledger: append-only, chained, and what can be read from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy

from labline.ledger import Entry, Ledger, standing, tenures, unfinished
from labline.standing import Standing, promoted


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/registry/ledger.db")


def moved(version: str, before: Standing, at: float) -> Entry:
    after = promoted(before, version, "Production")
    return Entry("done", f"move-{version}", "promotion", version, at, "ann", "better", before, after, "abc")


def test_entries_come_back_as_they_were_written(ledger: Ledger) -> None:
    first = moved("1", Standing(), 10.0)
    second = moved("2", first.after, 20.0)
    for entry in (first, second):
        ledger.append("steel", entry)
    ledger.append("surface", first)
    assert ledger.entries("steel") == [first, second]
    assert Ledger(ledger.address).entries("surface") == [first]
    assert ledger.tampered("steel") is None


def test_nothing_can_be_changed_or_taken_away(ledger: Ledger) -> None:
    ledger.append("steel", moved("1", Standing(), 10.0))
    engine = sqlalchemy.create_engine(ledger.address)
    for statement in ("UPDATE stage_changes SET content = ''", "DELETE FROM stage_changes"):
        with pytest.raises(sqlalchemy.exc.IntegrityError, match="append-only"), engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement))


def test_a_change_behind_its_back_shows(ledger: Ledger) -> None:
    for number in (1, 2, 3):
        ledger.append("steel", moved(str(number), Standing(), float(number)))
    engine = sqlalchemy.create_engine(ledger.address)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TRIGGER no_update"))
        connection.execute(
            sqlalchemy.text("UPDATE stage_changes SET content = replace(content, 'ann', 'eve') WHERE number = 2")
        )
    assert ledger.tampered("steel") == 2


def test_who_was_where_from_when_to_when() -> None:
    first = moved("1", Standing(), 10.0)
    second = moved("2", first.after, 20.0)
    found = [(tenure.version, tenure.stage, tenure.start, tenure.end) for tenure in tenures([first, second])]
    assert found == [("1", "Production", 10.0, 20.0), ("1", "Archived", 20.0, None), ("2", "Production", 20.0, None)]
    assert standing([first, second], moment=15.0).production == "1"
    assert standing([first, second]).production == "2"
    assert standing([first, second], moment=5.0).production is None


def test_an_intent_that_was_never_done_is_unfinished() -> None:
    done = moved("1", Standing(), 10.0)
    intent = replace(done, kind="intent")
    assert unfinished([intent]) == intent
    assert unfinished([intent, done]) is None
    assert unfinished([intent, replace(done, kind="abandoned")]) is None
