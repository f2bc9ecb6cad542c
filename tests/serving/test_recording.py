"""What was acknowledged is in the store, whatever was killed, down, locked or full in between."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from postgres import Postgres
from saved_feedback import label, prediction

from labline.feedback import FeedbackStore, Prediction
from labline.feedback.inputs import decode_input
from serving.draining import Drainer
from serving.recording import Full, Recorder

NOWHERE = "postgresql://nobody@/nothing?host=/nonexistent"
PATIENCE = 60.0  # seconds; a machine may be busy


def test_it_is_in_the_store_a_moment_later(feedback_address: str, tmp_path: Path) -> None:
    recorder = Recorder(feedback_address, tmp_path / "journal")
    image = np.full((4, 4, 3), 7, np.uint8)
    given = prediction()
    assert recorder.prediction(given, image)
    asyncio.run(recorder.label(label(given, "patches"), label(given, "inclusion", at=time.time() + 1)))
    store = FeedbackStore(feedback_address)
    until(lambda: len(store.labels(given.id)) == 2 and store.known(given.id))
    assert store.window("steel")["label"].tolist() == ["inclusion"]
    assert (decode_input(store.inputs([given.id])[given.id]) == image).all()
    recorder.close()
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["drainer.lock"]
    assert recorder.drainer.drained == 3 and recorder.size == 0


def test_closing_hands_everything_over(feedback_address: str, tmp_path: Path) -> None:
    recorder = Recorder(feedback_address, tmp_path / "journal")
    given = [prediction() for _ in range(700)]
    assert all(map(recorder.prediction, given))
    recorder.close()
    assert FeedbackStore(feedback_address).window("steel")["id"].tolist() == [each.id for each in given]


def test_what_was_acknowledged_survives_kill_9(feedback_address: str, tmp_path: Path) -> None:
    """Several rounds, two workers at once, killed at moments drawn by chance."""
    journal = tmp_path / "journal"
    dice = random.Random(7)
    told: list[str] = []
    for _ in range(3):
        workers = [acknowledging(feedback_address, journal) for _ in range(2)]
        first = [worker.stdout.readline() for worker in workers if worker.stdout]
        time.sleep(dice.uniform(0.0, 0.5))
        for worker in workers:
            worker.kill()
        told += first + [line for worker in workers for line in worker.communicate()[0].splitlines()]
    Drainer(feedback_address, journal).close(PATIENCE)
    store = FeedbackStore(feedback_address)
    window = store.window("steel")
    said = [line.split() for line in told if line.startswith("label")]
    answered = [line.split()[1] for line in told if line.startswith("prediction")]
    assert len(said) > 20 and len(answered) > 20
    assert set(answered) <= set(window["id"])
    assert window["id"].is_unique
    assert all(found in {each.id for each in store.labels(of)} for _, found, of in said)
    assert [path.name for path in journal.iterdir()] == ["drainer.lock"], "the folders of the dead are gone"


def test_nothing_is_lost_while_postgresql_is_down(postgres: Postgres, tmp_path: Path) -> None:
    address = postgres.new_database()
    recorder = Recorder(address, tmp_path / "journal")
    store = FeedbackStore(address)
    given = [prediction() for _ in range(90)]
    record(recorder, given[:30])
    until(lambda: len(store.window("steel")) == 30)
    postgres.stop()
    try:
        record(recorder, given[30:60])
        until(lambda: recorder.drainer.problem != "")
        record(recorder, given[60:])
    finally:
        postgres.start()
    until(lambda: recorder.drainer.problem == "" and recorder.size == 0)
    recorder.close()
    window = store.window("steel")
    assert window["id"].tolist() == [each.id for each in given] and window["label"].notna().all()


def test_nothing_is_lost_while_sqlite_is_locked(tmp_path: Path) -> None:
    store = FeedbackStore(f"sqlite:///{tmp_path}/feedback.db")
    recorder = Recorder(store.address, tmp_path / "journal")
    given = [prediction() for _ in range(60)]
    record(recorder, given[:30])
    until(lambda: len(store.window("steel")) == 30)
    greedy = sqlite3.connect(tmp_path / "feedback.db", isolation_level=None)
    greedy.execute("BEGIN EXCLUSIVE")
    record(recorder, given[30:])
    time.sleep(0.7)  # several rounds of the drainer
    assert recorder.size > 0
    greedy.execute("COMMIT")
    greedy.close()
    until(lambda: recorder.size == 0)
    recorder.close()
    assert store.window("steel")["id"].tolist() == [each.id for each in given]


def test_a_full_journal_acknowledges_nothing_and_what_it_did_is_kept(tmp_path: Path) -> None:
    recorder = Recorder(NOWHERE, tmp_path / "journal", limit_bytes=50_000)
    image = np.zeros((32, 32, 3), np.uint8)
    given = [prediction() for _ in range(40)]
    kept = [each.id for each in given if recorder.prediction(each, image)]
    assert 5 < len(kept) < 40 and recorder.unrecorded == 40 - len(kept)
    acknowledged = acknowledged_until_full(recorder, given[0])
    assert acknowledged, "room is left for labels where there is none for predictions"
    assert not recorder.prediction(given[-1])
    assert sum(path.stat().st_size for path in (tmp_path / "journal").rglob("*") if path.is_file()) <= 50_000
    until(lambda: recorder.drainer.problem != "")
    recorder.close()
    address = f"sqlite:///{tmp_path}/feedback.db"
    Drainer(address, tmp_path / "journal").close(PATIENCE)
    store = FeedbackStore(address)
    assert store.window("steel")["id"].tolist() == kept
    assert [each.label for each in store.labels(given[0].id)] == acknowledged


def test_what_the_disk_refuses_is_not_acknowledged(tmp_path: Path) -> None:
    recorder = Recorder(f"sqlite:///{tmp_path}/feedback.db", tmp_path / "journal")
    broken = recorder._journal._active["labels"]
    null = os.open("/dev/null", os.O_WRONLY)  # takes writes, and cannot be forced to a disk
    os.dup2(null, broken.descriptor)
    os.close(null)
    with pytest.raises(Full, match="forced to the disk"):
        asyncio.run(recorder.label(label("id")))
    until(lambda: recorder._journal._active["labels"] is not broken)
    asyncio.run(recorder.label(label("id", "said again")))
    recorder.close()
    assert [each.label for each in FeedbackStore(f"sqlite:///{tmp_path}/feedback.db").labels("id")] == ["said again"]


def acknowledged_until_full(recorder: Recorder, of: Prediction) -> list[str]:
    """Send labels until they are refused; returns those that were not."""
    acknowledged: list[str] = []
    while len(acknowledged) < 1000:
        try:
            asyncio.run(recorder.label(label(of, f"{len(acknowledged)}")))
        except Full:
            return acknowledged
        acknowledged.append(f"{len(acknowledged)}")
    pytest.fail("it has no bound")


def record(recorder: Recorder, given: list[Prediction]) -> None:
    """Record predictions and a label of each, and wait until these are acknowledged."""

    async def say() -> None:
        await asyncio.gather(*(recorder.label(label(each)) for each in given))

    assert all(map(recorder.prediction, given))
    asyncio.run(say())


def acknowledging(address: str, journal: Path) -> subprocess.Popen[str]:
    """See acknowledging.py."""
    path = os.pathsep.join(["tests", ".", os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(Path(__file__).with_name("acknowledging.py")), address, str(journal)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path})


def until(holds: Callable[[], bool]) -> None:
    """Wait for what other threads bring about."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
