"""The drainer: one at a time, nothing twice, and one bad record holds nobody up."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from postgres import Postgres
from saved_feedback import label, prediction

from labline.feedback import FeedbackStore, Label, Prediction
from serving.draining import Drainer
from serving.entries import encode_label, encode_prediction
from serving.journal import Journal, frame

PLENTY = 2**30


def written(folder: Path, *records: Prediction | Label) -> None:
    """Leave records in the journal, as a worker that has ended does."""
    journal = Journal(folder, PLENTY)
    for record in records:
        if isinstance(record, Prediction):
            journal.append("predictions", frame(encode_prediction(record, None)))
        else:
            journal.append("labels", frame(encode_label(record)))
    journal.close()


def drained(address: str, folder: Path) -> Drainer:
    drainer = Drainer(address, folder)
    drainer.close(20)
    return drainer


def test_a_file_that_is_drained_again_changes_nothing(feedback_address: str, tmp_path: Path) -> None:
    """A drainer that dies between storing a file and deleting it leaves it to the next."""
    given = prediction()
    written(tmp_path, given, label(given))
    copies = {path: path.read_bytes() for path in tmp_path.rglob("*.closed")}
    drained(feedback_address, tmp_path)
    for path, content in copies.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    drained(feedback_address, tmp_path)
    store = FeedbackStore(feedback_address)
    assert len(store.window("steel")) == len(store.labels(given.id)) == 1


def test_a_torn_end_is_counted_and_what_is_before_it_stored(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/feedback.db"
    given = [prediction() for _ in range(3)]
    written(tmp_path / "journal", *given)
    (path,) = (tmp_path / "journal").rglob("*.closed")
    path.write_bytes(path.read_bytes()[:-5])
    assert drained(address, tmp_path / "journal").torn == 1
    assert FeedbackStore(address).window("steel")["id"].tolist() == [each.id for each in given[:2]]


def test_what_the_database_refuses_is_set_aside_and_the_others_are_stored(postgres: Postgres, tmp_path: Path) -> None:
    """PostgreSQL has no room for a NUL in text; SQLite has."""
    address = postgres.new_database()
    given = [prediction() for _ in range(5)]
    written(tmp_path, *given[:2], replace(given[2], source="a\0b"), *given[3:])
    drainer = drained(address, tmp_path)
    assert (drainer.drained, drainer.refused, drainer.problem) == (4, 1, "")
    assert FeedbackStore(address).window("steel")["id"].tolist() == [each.id for each in given if each is not given[2]]
    assert given[2].id.encode() in next((tmp_path / "refused").iterdir()).read_bytes()


def test_what_was_deleted_before_it_was_drained_is_dropped(feedback_address: str, tmp_path: Path) -> None:
    gone, kept = prediction(), prediction()
    written(tmp_path, gone, kept, label(gone), label(kept))
    store = FeedbackStore(feedback_address)
    store.delete([gone.id])
    assert drained(feedback_address, tmp_path).dropped == 2
    assert store.window("steel")["id"].tolist() == [kept.id]


def test_another_drainer_stands_by_and_takes_over_when_the_first_is_killed(tmp_path: Path) -> None:
    journal, first_store, second_store = (tmp_path / name for name in ("journal", "first.db", "second.db"))
    script = "import sys, pathlib, time; from serving.draining import Drainer; "
    script += "d = Drainer(sys.argv[1], pathlib.Path(sys.argv[2])); print(flush=True); time.sleep(600)"
    first = subprocess.Popen(
        [sys.executable, "-c", script, f"sqlite:///{first_store}", str(journal)], stdout=subprocess.PIPE
    )
    assert first.stdout and first.stdout.readline()
    one, another = prediction(), prediction()
    written(journal, one)
    while list(journal.rglob("*.closed")):  # the first has the lock once it drains
        time.sleep(0.05)
    second = Drainer(f"sqlite:///{second_store}", journal)
    first.kill()
    first.wait()
    written(journal, another)
    while list(journal.rglob("*.closed")):
        time.sleep(0.05)
    second.close()
    found = [FeedbackStore(f"sqlite:///{path}").window("steel")["id"].tolist() for path in (first_store, second_store)]
    assert found == [[one.id], [another.id]]
