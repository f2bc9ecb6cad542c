"""The feedback store, the same tests on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from postgres import Postgres
from saved_feedback import forecast, label, prediction
from sqlalchemy.exc import OperationalError

from labline.errors import BadInput
from labline.feedback import FeedbackStore, Prediction
from labline.feedback.store import SECONDS_A_DAY


@pytest.fixture
def store(feedback_address: str) -> Iterator[FeedbackStore]:
    opened = FeedbackStore(feedback_address)
    yield opened
    opened.close()


def test_a_prediction_comes_back_as_it_was_given(store: FeedbackStore) -> None:
    given = prediction(input=b"\x89PNG", embedding=b"\x00\x3c", source="camera 7", role="canary")
    store.write([given])
    row = store.window("steel").iloc[0]
    for name in ("id", "version", "role", "at", "answer", "confidence", "latency_ms", "embedding", "source"):
        assert row[name] == getattr(given, name)
    assert row["outputs"] == list(given.outputs)
    assert (row["mean"], row["std"]) == (120.5, 30.25)
    assert row["shadow_of"] == "" and row["label"] is None and math.isnan(row["labelled_at"])
    assert store.inputs([given.id, "another"]) == {given.id: b"\x89PNG"}
    assert store.known(given.id) and not store.known("another")


def test_a_forecast_has_no_confidence_and_its_own_features(store: FeedbackStore) -> None:
    store.write([forecast(), forecast(features={"close": math.nan, "label": 1.0})])
    window = store.window("volatility")
    assert window["confidence"].isna().all()
    assert window["close"].tolist()[0] == 1480.25 and math.isnan(window["close"].tolist()[1])
    assert window["feature_label"].tolist()[1] == 1.0, "a feature does not displace the label"
    assert window["label"].isna().all()


def test_an_empty_window_has_the_same_columns(store: FeedbackStore) -> None:
    empty = store.window("steel")
    store.write([prediction(features={})])
    assert len(empty) == 0 and list(empty.columns) == list(store.window("steel").columns)


def test_what_is_written_twice_is_stored_once_as_it_was_first(store: FeedbackStore) -> None:
    first = prediction()
    said = label(first, "patches")
    store.write([first, said])
    store.write([replace(first, answer="patches"), replace(said, label="inclusion"), prediction()])
    window = store.window("steel")
    assert len(window) == 2
    assert window.set_index("id").loc[first.id, ["answer", "label"]].tolist() == ["scratches", "patches"]


def test_the_latest_label_counts_and_all_are_kept(store: FeedbackStore) -> None:
    given = prediction()
    late = label(given, "late", at=300.0, received=900.0)
    early = label(given, "early", at=100.0, received=901.0)
    corrected = label(given, "corrected", at=300.0, received=902.0, source="review")
    store.write([corrected, late, given, early])
    row = store.window("steel").iloc[0]
    assert (row["label"], row["label_source"], row["labelled_at"]) == ("corrected", "review", 300.0)
    assert store.labels(given.id) == [early, late, corrected]


def test_an_id_that_a_client_gives_to_labels_of_two_predictions_stands_for_two_labels(store: FeedbackStore) -> None:
    one, other = prediction(), prediction()
    store.write([replace(label(each, "patches"), id="1") for each in (one, other, one)])
    assert [len(store.labels(each.id)) for each in (one, other)] == [1, 1]


def test_a_label_may_come_before_its_prediction(store: FeedbackStore) -> None:
    given = prediction()
    store.write([label(given, "patches")])
    assert len(store.window("steel")) == 0
    store.write([given])
    assert store.window("steel")["label"].tolist() == ["patches"]


def test_windows_are_cut_by_time_version_role_and_number(store: FeedbackStore) -> None:
    answers = [prediction(at=float(moment), version=str(moment // 10)) for moment in range(20)]
    shadow = prediction(at=5.5, role="shadow", shadow_of=answers[5].id, version="9")
    store.write([*reversed(answers), shadow, prediction("surface")])
    at = [float(moment) for moment in range(20)]
    assert store.window("steel")["at"].tolist() == at
    assert store.window("steel", since=5.0, until=15.0)["at"].tolist() == at[5:15]
    assert store.window("steel", last=3)["at"].tolist() == at[17:]
    assert store.window("steel", until=10.0, last=2)["at"].tolist() == at[8:10]
    assert store.window("steel", versions=["1", "7"])["at"].tolist() == at[10:]
    seen = store.window("steel", role=("shadow",))
    assert seen["shadow_of"].tolist() == [answers[5].id]


def test_counts(store: FeedbackStore) -> None:
    first, second = prediction(at=10.0, input=b"x"), prediction(at=20.0, version="4", role="canary")
    shadow = prediction(at=10.0, role="shadow", shadow_of=first.id)
    store.write([first, second, shadow, label(first), label(first), prediction("surface")])
    counts = store.counts("steel")
    assert (counts.predictions, counts.shadows, counts.labelled, counts.inputs) == (2, 1, 1, 1)
    assert (counts.oldest, counts.newest, counts.versions) == (10.0, 20.0, {"3": 1, "4": 1})
    assert math.isnan(store.counts("cifar10").newest)


def test_what_is_deleted_is_gone_with_all_that_belongs_to_it_and_stays_gone(store: FeedbackStore) -> None:
    gone, kept = prediction(input=b"face"), prediction(input=b"strip")
    shadow = prediction(role="shadow", shadow_of=gone.id, input=b"face")
    records = [gone, kept, shadow, label(gone), label(shadow.id), label(kept)]
    store.write(records)
    assert store.delete([gone.id, "never stored"]) == 2
    assert store.delete([gone.id]) == 0
    for again in (records, [label(gone, "patches")]):
        store.write(again)
    assert store.window("steel", role=("production", "shadow"))["id"].tolist() == [kept.id]
    assert store.labels(gone.id) == store.labels(shadow.id) == []
    assert store.inputs([gone.id, shadow.id, kept.id]) == {kept.id: b"strip"}
    assert store.write([gone, shadow, label(gone), kept]) == 3, "it says how many it dropped"


def test_deleting_before_it_is_stored(store: FeedbackStore) -> None:
    late = prediction()
    store.delete([late.id])
    assert store.write([late, label(late)]) == 2
    assert not store.known(late.id) and store.labels(late.id) == []


def test_deletions_beside_writes_leave_nothing_behind(store: FeedbackStore) -> None:
    """Each prediction is written, and deleted at the same time by another thread: whoever is first, it is gone."""
    given = [prediction() for _ in range(40)]

    def write() -> None:
        for each in given:
            store.write([each, label(each)])

    def remove() -> None:
        for each in given:
            store.delete([each.id])

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(each) for each in (write, remove, write)]:
            done.result()
    assert len(store.window("steel")) == 0
    assert not any(store.labels(each.id) for each in given)


def test_retention_takes_what_is_older_and_spares_other_use_cases(store: FeedbackStore) -> None:
    now = time.time()
    days = [prediction(at=now - day * SECONDS_A_DAY, input=b"x") for day in (0.5, 1.5, 40.0)]
    elsewhere = prediction("surface", at=now - 40 * SECONDS_A_DAY)
    orphans = [label("lost", received=now - day * SECONDS_A_DAY) for day in (0.5, 40.0)]
    store.write([*days, elsewhere, *(label(each, received=now) for each in days), *orphans])
    assert store.retain("steel", 1.0) == 2
    assert store.window("steel")["id"].tolist() == [days[0].id]
    assert store.inputs([each.id for each in days]) == {days[0].id: b"x"}
    assert not store.labels(days[2].id) and store.labels("lost") == orphans[:1]
    assert store.known(elsewhere.id)


def test_many_at_once_may_open_and_write_the_same_store(feedback_address: str) -> None:
    """As the workers of a service do when it starts, also the first time."""
    given = [[prediction() for _ in range(20)] for _ in range(6)]

    def work(mine: list[Prediction]) -> None:
        store = FeedbackStore(feedback_address)
        for each in mine:
            store.write([each])
        store.close()

    with ThreadPoolExecutor(len(given)) as pool:
        list(pool.map(work, given))
    assert len(FeedbackStore(feedback_address).window("steel")) == 120


def test_it_goes_on_after_the_server_was_down(postgres: Postgres) -> None:
    store = FeedbackStore(postgres.new_database())
    first, second = prediction(), prediction()
    store.write([first])
    postgres.stop()
    try:
        with pytest.raises(OperationalError):
            store.write([second])
    finally:
        postgres.start()
    store.write([second])
    assert store.window("steel")["id"].tolist() == [first.id, second.id]
    store.close()


def test_sqlite_forces_its_log_to_the_disk_and_overwrites_what_is_deleted(tmp_path: Path) -> None:
    """The journal deletes its own copy as soon as the store says that it has it: see connecting.py."""
    path = tmp_path / "feedback.db"
    store = FeedbackStore(f"sqlite:///{path}")
    secret = b"a face that its owner wants gone"
    given = prediction(input=secret)
    store.write([given])
    with store._opened().connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "journal_mode")
        }
    assert pragmas == {"synchronous": 2, "journal_mode": "wal"}
    found = [each for each in tmp_path.iterdir() if secret in each.read_bytes()]
    assert found
    store.delete([given.id])
    assert not [each for each in tmp_path.iterdir() if secret in each.read_bytes()]


@pytest.mark.parametrize("address", ["mysql://host/db", "feedback.db", "sqlite", "nothing://x"])
def test_addresses_of_other_databases_are_refused(address: str) -> None:
    with pytest.raises(BadInput, match="sqlite:///PATH or postgresql://"):
        FeedbackStore(address)
