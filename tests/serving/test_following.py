"""What the service makes of the registry: a real one, moved under its eyes, broken, emptied and taken away."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_versions import break_weights, write_version

from labline.errors import BadInput, LablineError
from serving import downloads, following
from serving.assignment import Assignment, read_assignment, write_assignment
from serving.downloads import KEPT, VERSIONS, clear_away, examine
from serving.following import Follower, Wanted
from serving.registry import Registry, address

NAME = "bright"
DEAD = "http://user:secret@127.0.0.1:9"  # where nobody listens
CANARY = 'title = "Bright or dark"\n[serving]\ncanary = 0.25\nshadow = 0.5\n'


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An SQLite registry of this module's own."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    patch = pytest.MonkeyPatch()
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        patch.setenv(variable, f"sqlite:///{path}")
    yield path
    patch.undo()


class Bench:
    """A registered model with versions 1 to 4: 3 is broken, 4 declares a canary; and a service that follows it."""

    def __init__(self, client: object, folder: Path) -> None:
        self.client = client
        self.sources, self.folder, self.instance = folder / "sources", folder / "serving", folder / "serving" / "8080"
        client.create_registered_model(NAME)
        for number in range(1, 5):
            source = write_version(
                self.sources / str(number), contrast=0.001 * number, declaration=CANARY if number == 4 else ""
            )
            client.create_model_version(NAME, str(source))
        break_weights(self.sources / "3")
        self.put("production", "1")

    def put(self, alias: str, version: str | None) -> None:
        """What a promotion, a rollback or an archiving does in the end."""
        if version is None:
            self.client.delete_registered_model_alias(NAME, alias)
        else:
            self.client.set_registered_model_alias(NAME, alias, version)

    def follower(self, **wanted: object) -> Follower:
        return Follower(Wanted(NAME, **wanted), self.folder, self.instance)

    def assigned(self) -> Assignment:
        """What the workers are told."""
        assignment = read_assignment(self.instance)
        assert assignment is not None
        return assignment

    def production(self) -> str | None:
        production = self.assigned().production
        return production.version if production else None

    def downloaded(self) -> set[str]:
        return {path.name.partition("-")[0] for path in (self.folder / VERSIONS).iterdir() if path.is_dir()}


@pytest.fixture
def bench(database: Path, tmp_path: Path) -> Iterator[Bench]:
    from mlflow import MlflowClient

    client = MlflowClient()
    yield Bench(client, tmp_path)
    client.delete_registered_model(NAME)


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The numbers of the versions that were checked, in that order."""
    seen: list[str] = []

    def note(folder: Path) -> None:
        seen.append(folder.name.partition("-")[0])
        examine(folder)

    monkeypatch.setattr(following, "examine", note)
    return seen


def test_production_is_brought_checked_and_assigned_and_so_is_what_comes_after(
    bench: Bench, examined: list[str]
) -> None:
    follower = bench.follower()
    assert follower.begin() == bench.assigned()
    assert bench.production() == "1"

    bench.put("production", "2")
    assert follower.look() is None
    assert bench.production() == "2"

    written = (bench.instance / "assignment.json").stat().st_mtime_ns
    follower.look()
    assert (bench.instance / "assignment.json").stat().st_mtime_ns == written, "nothing new, nothing written"

    shutil.rmtree(bench.sources)  # a rollback brings nothing and checks nothing
    bench.put("production", "1")
    follower.look()
    assert bench.production() == "1"
    assert examined == ["1", "2"]


def test_a_version_that_fails_its_check_is_refused_once_and_the_old_one_goes_on(
    bench: Bench, examined: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    follower = bench.follower()
    follower.begin()
    bench.put("production", "3")
    for _ in range(3):
        follower.look()

    assert bench.production() == "1"
    (refused,) = bench.assigned().refused
    assert (refused.slot, refused.version) == ("production", "3")
    assert "not finite" in refused.problem
    assert examined == ["1", "3"], "not tried again"
    assert caplog.text.count("version 3 is not served, version 1 goes on") == 1

    bench.put("production", "2")
    follower.look()
    assert (bench.production(), bench.assigned().refused) == ("2", ())


def test_a_version_that_cannot_be_brought_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FIRST_PAUSE", 0.0)
    follower = bench.follower()
    follower.begin()
    away = bench.sources / "away"
    (bench.sources / "2").rename(away)
    bench.put("production", "2")
    follower.look()

    (refused,) = bench.assigned().refused
    assert (bench.production(), refused.version) == ("1", "2")
    assert str(bench.sources) not in refused.problem, "clients may read it"

    away.rename(bench.sources / "2")
    follower.look()
    assert (bench.production(), bench.assigned().refused) == ("2", ())
    assert not list((bench.folder / VERSIONS).glob(".incoming*"))


def test_a_check_that_comes_to_no_result_is_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FIRST_PAUSE", 0.0)
    follower = bench.follower()
    follower.begin()
    bench.put("production", "2")
    with monkeypatch.context() as hanging:
        hanging.setattr(downloads, "CHECK_SECONDS", 0.001)
        follower.look()
    assert (bench.production(), bench.assigned().refused[0].version) == ("1", "2")

    follower.look()
    assert (bench.production(), bench.assigned().refused) == ("2", ())


def test_a_disk_that_takes_nothing_stops_no_service(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    follower = bench.follower()
    follower.begin()
    away = (bench.folder / VERSIONS).rename(bench.folder / "away")
    (bench.folder / VERSIONS).write_text("in the way")
    bench.put("production", "2")
    follower.look()

    assert bench.production() == "1"
    assert "version 2 cannot be stored" in caplog.text
    assert away.is_dir()


def test_a_registry_that_fails_changes_nothing_until_it_answers_again(bench: Bench, database: Path) -> None:
    follower = bench.follower()
    follower.begin()
    bench.put("production", "2")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("ALTER TABLE registered_model_aliases RENAME TO away")
        try:
            for _ in range(2):
                assert "does not answer" in str(follower.look())
            assert bench.production() == "1"
        finally:
            connection.execute("ALTER TABLE away RENAME TO registered_model_aliases")

    assert follower.look() is None
    assert bench.production() == "2"


@pytest.mark.usefixtures("database")
def test_a_service_that_is_started_while_the_registry_is_down_goes_on_where_it_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.follower().begin()
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_REGISTRY_URI", DEAD)
        down.setenv("MLFLOW_TRACKING_URI", DEAD)
        down.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert bench.follower().begin() == bench.assigned()
        assert bench.production() == "1"
        assert "the registry http://127.0.0.1:9 does not answer" in caplog.text
        with pytest.raises(LablineError):
            bench.follower(stage="staging").begin()  # which is not what it served


def test_without_the_registry_and_without_a_version_there_is_no_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(variable, DEAD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(LablineError, match="http://127.0.0.1:9 does not answer") as refused:
        Follower(Wanted(NAME), tmp_path, tmp_path / "8080").begin()
    assert "secret" not in address()
    assert refused.value.exit_code == 1


def test_staging_is_assigned_beside_production_with_the_share_it_declares(bench: Bench) -> None:
    bench.put("staging", "4")
    follower = bench.follower()
    follower.begin()
    assert bench.assigned().staging is not None
    assert (bench.assigned().canary, bench.assigned().shadow) == (0.25, 0.5)

    bench.put("staging", "3")
    follower.look()
    assert bench.assigned().staging is None, "who is refused takes no share"
    assert bench.assigned().refused[0].slot == "staging"

    bench.put("staging", None)
    follower.look()
    assert (bench.assigned().staging, bench.assigned().canary, bench.assigned().refused) == (None, 0.0, ())
    assert bench.production() == "1"


def test_a_share_on_the_command_line_wins(bench: Bench) -> None:
    bench.put("staging", "4")
    bench.follower(canary=0.0).begin()

    assert (bench.assigned().canary, bench.assigned().shadow) == (0.0, 0.5)


def test_the_version_in_staging_is_served_where_that_is_asked_for(bench: Bench) -> None:
    with pytest.raises(BadInput, match="nothing of bright is in Staging: labline promote bright"):
        bench.follower(stage="staging").begin()
    bench.put("staging", "2")
    bench.follower(stage="staging").begin()

    assert (bench.production(), bench.assigned().stage, bench.assigned().staging) == ("2", "staging", None)


def test_a_named_version_stays_whatever_moves(bench: Bench) -> None:
    follower = bench.follower(stage="pinned", version="2")
    follower.begin()
    bench.put("production", "4")
    follower.follow()  # returns at once: there is nothing to follow

    assert (bench.production(), bench.assigned().stage) == ("2", "pinned")
    with pytest.raises(BadInput, match="bright has no version 9"):
        bench.follower(stage="pinned", version="9").begin()


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda bench: bench.put("production", None), "nothing of bright is in Production: labline promote bright"),
        (lambda bench: bench.put("production", "3"), "version 3 of bright is not served: .*not finite"),
    ],
)
def test_a_service_of_nothing_does_not_start(bench: Bench, prepare: Callable[[Bench], None], told: str) -> None:
    prepare(bench)
    with pytest.raises(LablineError, match=told):
        bench.follower().begin()


@pytest.mark.usefixtures("database")
def test_an_unknown_model_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nobody is not registered in sqlite:///.*: labline run nobody"):
        Follower(Wanted("nobody"), tmp_path, tmp_path / "8080").begin()


def test_an_archived_version_is_taken_out_but_not_for_an_alias_that_is_moved_in_two_steps(bench: Bench) -> None:
    follower = bench.follower()
    follower.begin()
    bench.put("production", None)
    follower.look()
    assert bench.production() == "1", "it may be set again in a moment"

    for _ in range(following.EMPTY_LOOKS):
        follower.look()
    assert bench.production() is None

    bench.put("production", "1")
    follower.look()
    assert bench.production() == "1"


def test_a_model_that_is_deleted_by_mistake_stops_no_service(bench: Bench, tmp_path: Path) -> None:
    follower = bench.follower()
    follower.begin()
    bench.client.delete_registered_model(NAME)
    for _ in range(following.EMPTY_LOOKS + 1):
        follower.look()
    assert bench.production() == "1"

    # Registered anew, its first version has the same number and other files.
    bench.client.create_registered_model(NAME)
    bench.client.create_model_version(NAME, str(write_version(tmp_path / "anew", contrast=0.05)))
    before = bench.assigned().production
    bench.put("production", "1")
    follower.look()
    assert bench.production() == "1"
    assert bench.assigned().production != before


def test_old_versions_are_cleared_away_but_not_those_that_another_service_stands_on(bench: Bench) -> None:
    follower = bench.follower()
    follower.begin()
    other = bench.instance.with_name("8081")
    write_assignment(other, bench.assigned())  # a service on another port stays with version 1
    for contrast in range(5, 9):
        source = write_version(bench.sources / str(contrast), contrast=0.001 * contrast)
        bench.client.create_model_version(NAME, str(source))
    for number in ("2", "4", "5", "6", "7", "8"):
        bench.put("production", number)
        follower.look()
    (bench.folder / VERSIONS / ".incoming-left").mkdir()
    clear_away(bench.folder)

    assert bench.production() == "8"
    assert bench.downloaded() == {"1", "5", "6", "7", "8"}
    assert KEPT == 3


def test_the_registry_says_where_an_alias_points(bench: Bench) -> None:
    registry = Registry(NAME)
    first, second = registry.version("1"), registry.version("2")

    assert registry.named("production") == first
    assert registry.named("staging") is None
    assert first.digest != second.digest
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
