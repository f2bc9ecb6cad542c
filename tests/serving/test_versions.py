"""What a worker answers with: exchanged between requests, kept where the new one is bad, freed after its last one."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_versions import answer, expected, write_version

from labline.errors import LablineError
from serving.assignment import FILE, Assigned, Assignment, Refusal, read_assignment, write_assignment
from serving.versions import LOOK_SECONDS, NotReady, Versions, load

SERVING = """
title = "Bright or dark"
[serving]
max_batch = 4
canary = 0.25
"""


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what another thread or process does."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, "nothing happened within 120 s"
        time.sleep(0.01)


class Service:
    """A folder with versions 1 to 3, each surer than the one before, and a worker that watches its assignment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for number in (1, 2, 3):
            write_version(folder / "versions" / str(number), contrast=0.001 * number, declaration=SERVING)
        self.changes = 0
        self.assign("1")
        self.versions = Versions(folder, on_change=self._count)

    def assign(self, production: str | None, staging: str | None = None, **shares: float) -> None:
        """Write what the supervisor would write."""
        both = [Assigned(number, f"versions/{number}") if number else None for number in (production, staging)]
        write_assignment(self.folder, Assignment("production", *both, **shares))

    def stands(self, number: str) -> None:
        """Wait until a version answers."""
        eventually(lambda: self.versions.production is not None and self.versions.production.version == number)

    def _count(self) -> None:
        self.changes += 1


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    started = Service(tmp_path)
    yield started
    started.versions.close()


def test_the_assigned_version_is_loaded_with_what_its_declaration_says(service: Service) -> None:
    served, role = service.versions.choose(0.0)

    assert (served.version, role) == ("1", "production")
    assert answer(served) == pytest.approx(expected(0.001))
    assert (served.title, served.serving.max_batch) == ("Bright or dark", 4)
    assert service.versions.swaps == 0


def test_production_is_exchanged_while_a_request_keeps_the_version_it_began_with(service: Service) -> None:
    begun, _ = service.versions.choose(0.5)
    service.assign("2")
    service.stands("2")

    assert answer(begun) == pytest.approx(expected(0.001))
    assert answer(service.versions.choose(0.5)[0]) == pytest.approx(expected(0.002))
    assert service.versions.swaps == 1
    eventually(lambda: service.changes == 1)

    old = weakref.ref(begun.model.session)
    del begun
    gc.collect()
    assert old() is None, "the old session is freed when the last request that had it ended"


def test_every_answer_under_load_is_that_of_the_version_it_names(service: Service) -> None:
    wrong: list[str] = []
    ending = threading.Event()

    def ask() -> None:
        while not ending.is_set():
            served, _ = service.versions.choose(0.9)
            if answer(served) != pytest.approx(expected(0.001 * int(served.version))):
                wrong.append(served.version)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for number in ("2", "3", "1"):
        service.assign(number)
        service.stands(number)
    ending.set()
    for client in clients:
        client.join()

    assert not wrong
    assert service.versions.swaps == 3


@pytest.mark.parametrize("damage", ["no files", "broken graph", "broken declaration"])
def test_a_version_that_cannot_be_loaded_leaves_the_old_one_and_is_named(service: Service, damage: str) -> None:
    folder = service.folder / "versions" / "2"
    if damage == "no files":
        (folder / "MLmodel").unlink()
    elif damage == "broken graph":
        (folder / "model.onnx").write_bytes(b"not a graph")
    else:
        (folder / "extra_files" / "usecase.toml").write_text("[serving]\nmax_batch = 0")
    service.assign("2")
    eventually(lambda: bool(service.versions.refused))

    service.stands("1")
    (refused,) = service.versions.refused
    assert (refused.slot, refused.version) == ("production", "2")
    assert str(service.folder) not in refused.problem, "clients may read it"
    assert service.versions.swaps == 0

    service.assign("3")
    service.stands("3")
    assert service.versions.refused == ()


def test_what_could_not_be_loaded_for_want_of_something_is_loaded_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = service.folder / "versions" / "2" / "model.onnx"
    whole = graph.read_bytes()
    graph.unlink()
    service.assign("2")
    eventually(lambda: bool(service.versions.refused))

    graph.write_bytes(whole)
    time.sleep(2 * LOOK_SECONDS)
    assert service.versions.refused, "the other version answers: there is time"

    monkeypatch.setattr("serving.versions.AGAIN_BESIDE_SECONDS", 0.0)
    service.stands("2")
    eventually(lambda: service.versions.refused == ())


def test_staging_takes_its_share_and_is_not_loaded_again_when_it_goes_up(service: Service) -> None:
    service.assign("1", "2", canary=0.25, shadow=0.5)
    eventually(lambda: service.versions.staging is not None)
    candidate = service.versions.staging

    assert candidate is not None
    assert service.versions.choose(0.24) == (candidate, "canary")
    assert service.versions.choose(0.25)[0].version == "1"
    assert service.versions.shadow(0.49) is candidate
    assert service.versions.shadow(0.5) is None

    service.assign("2")
    service.stands("2")
    assert service.versions.production is candidate
    eventually(lambda: service.versions.staging is None)
    assert service.versions.choose(0.0) == (candidate, "production")


@pytest.mark.parametrize("canary", [0.0, 1.0])
def test_a_candidate_that_cannot_be_loaded_takes_no_share(service: Service, canary: float) -> None:
    (service.folder / "versions" / "2" / "model.onnx").unlink()
    service.assign("1", "2", canary=canary, shadow=1.0)
    eventually(lambda: bool(service.versions.refused))

    assert service.versions.choose(0.0)[0].version == "1"
    assert service.versions.shadow(0.0) is None
    assert service.versions.refused[0].slot == "staging"


def test_a_service_of_staging_answers_as_the_canary(service: Service) -> None:
    write_assignment(service.folder, Assignment("staging", Assigned("2", "versions/2")))
    service.stands("2")

    served, role = service.versions.choose(0.9)
    assert role == service.versions.role(served) == "canary"


def test_nothing_in_production_is_said_until_something_is(service: Service) -> None:
    service.assign(None)
    eventually(lambda: service.versions.production is None)

    with pytest.raises(NotReady, match="nothing usable is in Production"):
        service.versions.choose(0.5)

    service.assign("1")
    service.stands("1")


def test_a_broken_assignment_changes_nothing(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    (service.folder / FILE).write_text("{")
    eventually(lambda: "what stands goes on standing" in caplog.text)
    service.stands("1")
    with pytest.raises(LablineError, match="start labline serve again"):
        read_assignment(service.folder)
    service.assign("2")
    service.stands("2")


def test_a_listener_that_fails_does_not_stop_the_watch(service: Service) -> None:
    def fail() -> None:
        raise RuntimeError("a listener's own fault")

    listening = Versions(service.folder, on_change=fail)
    try:
        for number in ("2", "3"):
            service.assign(number)
            eventually(lambda number=number: listening.choose(0.5)[0].version == number)  # type: ignore[misc]
    finally:
        listening.close()


def test_a_worker_may_start_before_anything_is_assigned(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    try:
        with pytest.raises(NotReady):
            versions.choose(0.5)
        write_version(tmp_path / "1", contrast=0.01)
        write_assignment(tmp_path, Assignment("pinned", Assigned("1", "1")))
        eventually(lambda: versions.production is not None)
        assert versions.stage == "pinned"
    finally:
        versions.close()


def test_a_version_without_a_declaration_is_served_with_the_defaults(tmp_path: Path) -> None:
    served = load("7", write_version(tmp_path / "version", contrast=0.01))

    assert (served.title, served.serving.canary) == ("", 0.0)


text = st.text(max_size=20)
assigned = st.none() | st.builds(Assigned, text, text)
refusals = st.lists(st.builds(Refusal, st.sampled_from(["production", "staging"]), text, text), max_size=3).map(tuple)
shares = st.floats(0, 1)


@settings(deadline=None)
@given(
    st.builds(
        Assignment, st.sampled_from(["production", "staging", "pinned"]), assigned, assigned, shares, shares, refusals
    )
)
def test_an_assignment_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, assignment: Assignment
) -> None:
    folder = tmp_path_factory.getbasetemp() / "assignment"
    write_assignment(folder, assignment)

    assert read_assignment(folder) == assignment
    assert replace(assignment, production=None, staging=None).folders() == set()
