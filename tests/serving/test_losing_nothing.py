"""What the service acknowledged over HTTP is in the store afterwards: killed, cut off from its store, or out of disk.

`test_recording.py` shows the same of the recorder alone, and of more kinds of death.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from clients import Told, ask, assert_nothing_was_lost, images
from disks import fill, mounted
from postgres import Postgres
from running_service import RAW, USECASE, Running, prepare, running, write_classifier

from labline.feedback import FeedbackStore

CLIENTS = 8
PICTURES = [picture.tobytes() for picture in images(16)]
PATIENCE = 60.0  # seconds; a machine may be busy


def test_labels_that_were_acknowledged_survive_kill_9_of_the_service(tmp_path: Path) -> None:
    settings = prepare(tmp_path, production=write_classifier(tmp_path / "one"))
    told = Told()
    with running(settings) as service:
        asyncio.run(clients(service, told, lambda: len(told.labels) >= 200, service.process.kill))
    assert told.given_up, "it was killed while clients asked"
    with running(settings):  # whoever comes next finds what the dead one left
        assert_stored(told, settings.feedback)


@contextmanager
def locked_sqlite(path: Path) -> Iterator[None]:
    greedy = sqlite3.connect(path, isolation_level=None)
    greedy.execute("BEGIN EXCLUSIVE")
    yield
    greedy.execute("COMMIT")
    greedy.close()


@contextmanager
def stopped_postgresql(server: Postgres) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_clients_do_not_notice_a_store_that_is_down(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    settings = prepare(tmp_path, production=write_classifier(tmp_path / "one"))
    address = settings.feedback
    outage = locked_sqlite(tmp_path / "feedback.db")
    if kind == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        address, outage = server.new_database(), stopped_postgresql(server)
    told = Told()
    with running(settings, feedback=address) as service:
        service.say("/feedback", {})  # the store's tables are made
        asyncio.run(clients(service, told, lambda: len(told.labels) >= 50))
        assert_stored(told, address)
        with outage:
            before = len(told.labels)
            asyncio.run(clients(service, told, lambda: len(told.labels) >= before + 100))
            time.sleep(0.7)  # the drainer tries, and fails
            asyncio.run(clients(service, told, lambda: len(told.labels) >= before + 200))
            assert set(told.statuses) == {200} and not told.broken
            assert len(told.predictions) == len(told.answers), "all were recorded"
        assert_stored(told, address)


def test_on_a_full_disk_answers_go_on_and_feedback_is_refused_until_there_is_room(tmp_path: Path) -> None:
    version = write_classifier(tmp_path / "one")
    with mounted(tmp_path / "store", "24m") as disk, running(prepare(disk, production=version)) as service:
        kept = [predict(service)]
        fill(disk)
        until_unrecorded(service, kept)
        acknowledged = until_refused(service, kept[0])
        for path in ("/ready", "/model", "/metrics"):
            assert service.client.get(path).status_code == 200

        (disk / "filler").unlink()
        kept.append(predict(service))
        acknowledged.append("the last")
        assert label(service, kept[0], acknowledged[-1]).status_code == 200
        assert [row["id"] for row in service.stored(len(kept))] == kept
        store = FeedbackStore(service.settings.feedback)
        until(lambda: [each.id for each in store.labels(kept[0])] == acknowledged)


async def clients(
    service: Running, told: Told, enough: Callable[[], bool], then: Callable[[], object] = lambda: None
) -> None:
    """Clients that ask and label until there is enough; then something happens while they still do."""
    ending = asyncio.Event()
    asking = [asyncio.create_task(ask(service.port, told, ending, seed, PICTURES)) for seed in range(CLIENTS)]
    deadline = time.monotonic() + PATIENCE
    while not enough() and not told.given_up:
        assert time.monotonic() < deadline, told.statuses
        await asyncio.sleep(0.01)
    then()
    ending.set()
    await asyncio.gather(*asking)


def assert_stored(told: Told, address: str) -> None:
    """Within a while; the worker's own drainer is at work."""
    store = FeedbackStore(address)

    def complete() -> bool:
        counts = store.counts(USECASE)
        return counts.predictions >= len(told.predictions) and counts.labelled >= len(told.labels)

    until(complete)
    assert_nothing_was_lost(told, store)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def predict(service: Running) -> str:
    answer = service.post("/predict", PICTURES[-1], RAW).json()
    assert "recorded" not in answer
    return str(answer["id"])


def label(service: Running, prediction: str, identifier: str) -> httpx.Response:
    return service.say("/feedback", {"id": prediction, "label": "bright", "label_id": identifier})


def until_unrecorded(service: Running, kept: list[str]) -> None:
    """Predict until the disk has no room for another record; the ids of those recorded are added to `kept`."""
    for _ in range(1000):
        answer = service.post("/predict", PICTURES[-1], RAW)
        assert answer.status_code == 200
        if answer.json().get("recorded") is False:
            return
        kept.append(answer.json()["id"])
    raise AssertionError("the disk takes more than it has")


def until_refused(service: Running, prediction: str) -> list[str]:
    """Label until that is refused; returns the ids of the labels that were acknowledged."""
    acknowledged: list[str] = []
    for number in range(1000):
        answer = label(service, prediction, f"{number:03d}")
        if answer.status_code != 200:
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            return acknowledged
        acknowledged.append(f"{number:03d}")
    raise AssertionError("the disk takes more than it has")
