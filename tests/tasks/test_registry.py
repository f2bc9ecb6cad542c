"""The registry: stages and aliases as one, whatever is killed in between and whatever somebody does by hand."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mlflow import MlflowClient

from labline.errors import BadInput
from labline.ledger import Ledger, standing, tenures, unfinished
from labline.standing import Standing, archived, promoted, rolled_back
from tasks.registry import Registry, alone, look, open_registry

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

WRITES = {
    "set_model_version_tag",
    "transition_model_version_stage",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "append",
}
STAGE_METHODS = frozenset({"transition_model_version_stage", "get_latest_versions", "get_model_version_stages"})


class Killed(BaseException):
    """What kill -9 looks like from inside: nothing catches it."""


class Mortal:
    """A client or ledger whose process dies at the n-th write, counted together with those of its `peers`."""

    def __init__(self, target: object, life: list[int], without: frozenset[str] = frozenset()) -> None:
        self._target, self._life, self._without = target, life, without

    def __getattr__(self, name: str) -> Any:
        if name in self._without:
            raise AttributeError(name)
        if name in WRITES and self._life:
            if self._life[0] == 0:
                raise Killed
            self._life[0] -= 1
        return getattr(self._target, name)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    address = f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"
    return MlflowClient(tracking_uri=address, registry_uri=address)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def register(client: MlflowClient, name: str, versions: int) -> None:
    client.create_registered_model(name)
    for _ in range(versions):
        client.create_model_version(name, source="file:///nowhere")


@pytest.fixture
def registry(client: MlflowClient, ledger: Ledger) -> Registry:
    name = f"m-{uuid.uuid4().hex[:8]}"
    register(client, name, versions=3)
    return Registry(name, client, ledger)


def promote(registry: Registry, version: str, stage: Any = "Production") -> None:
    registry.move("promotion", version, promoted(registry.standing(), version, stage), "better")


def seen(registry: Registry) -> tuple[dict[str, str], dict[str, str]]:
    """Stage of each version, and the aliases, as MLflow says."""
    model = registry.client.get_registered_model(registry.usecase)
    return {str(v.version): v.current_stage for v in registry.versions()}, {a: str(v) for a, v in model.aliases.items()}


def test_stage_alias_tag_and_ledger_say_the_same(registry: Registry) -> None:
    promote(registry, "1", "Staging")
    promote(registry, "1")
    promote(registry, "2")
    stages, aliases = seen(registry)
    assert stages == {"1": "Archived", "2": "Production", "3": "None"}
    assert aliases == {"production": "2", "previous": "1"}
    assert registry.version("2").tags["labline.stage"] == "Production"
    assert [(t.version, t.stage) for t in tenures(registry.ledger.entries(registry.usecase)) if t.end is None] == [
        ("1", "Archived"),
        ("2", "Production"),
    ]


def test_a_promotion_by_stage_in_the_old_pages_is_obeyed(registry: Registry) -> None:
    promote(registry, "1")
    registry.client.transition_model_version_stage(registry.usecase, "3", "Production")  # leaves two in Production
    assert registry.disagreements() == ["version 3 is in stage Production, expected None"]
    assert registry.reconcile()
    stages, aliases = seen(registry)
    assert stages == {"1": "Archived", "2": "None", "3": "Production"}
    assert aliases == {"production": "3", "previous": "1"}
    entry = registry.ledger.entries(registry.usecase)[-1]
    assert (entry.kind, entry.action, entry.version) == ("observed", "by hand", "1, 3")
    assert not registry.reconcile()


def test_a_promotion_by_alias_in_the_new_pages_is_obeyed(registry: Registry) -> None:
    promote(registry, "1")
    registry.client.set_registered_model_alias(registry.usecase, "production", "2")
    registry.reconcile()
    stages, aliases = seen(registry)
    assert stages["2"] == "Production"
    assert stages["1"] == "Archived"
    assert aliases == {"production": "2", "previous": "1"}


def test_what_somebody_broke_by_hand_is_mended(registry: Registry) -> None:
    promote(registry, "1")
    promote(registry, "2")
    registry.client.delete_registered_model_alias(registry.usecase, "production")
    registry.client.set_registered_model_alias(registry.usecase, "previous", "3")
    assert len(registry.disagreements()) == 2
    registry.reconcile()
    assert seen(registry)[1] == {"production": "2", "previous": "1"}
    assert not registry.disagreements()


def test_a_deleted_production_is_gone_and_can_be_rolled_back(registry: Registry) -> None:
    promote(registry, "1")
    promote(registry, "2")
    registry.client.delete_model_version(registry.usecase, "2")
    registry.reconcile()
    assert registry.standing().production is None
    registry.move("rollback", "1", rolled_back(registry.standing()), "version 2 was deleted")
    assert seen(registry)[1]["production"] == "1"


def test_a_person_overtakes_an_interrupted_promotion(registry: Registry) -> None:
    promote(registry, "1")
    dying = Registry(registry.usecase, Mortal(registry.client, [0]), registry.ledger)  # type: ignore[arg-type]
    with pytest.raises(Killed):
        promote(dying, "2")
    registry.client.set_registered_model_alias(registry.usecase, "production", "3")
    assert "overtaken by hand" in registry.reconcile()[0]
    assert seen(registry)[0] == {"1": "Archived", "2": "None", "3": "Production"}


def test_the_day_mlflow_has_no_stages(registry: Registry) -> None:
    registry.client = Mortal(registry.client, [], without=STAGE_METHODS)  # type: ignore[assignment]
    promote(registry, "1")
    promote(registry, "2")
    stages, aliases = seen(registry)
    assert set(stages.values()) == {"None"}
    assert aliases == {"production": "2", "previous": "1"}
    assert registry.version("2").tags["labline.stage"] == "Production"
    registry.client.delete_registered_model_alias(registry.usecase, "production")
    registry.reconcile()
    assert registry.standing().production is None


def test_a_version_that_does_not_exist_is_named(registry: Registry) -> None:
    with pytest.raises(BadInput, match="no version 7; valid names: 1, 2, 3"):
        registry.version("7")


def test_a_model_that_was_deleted_and_registered_anew_stands_nowhere(registry: Registry) -> None:
    promote(registry, "1")
    promote(registry, "2")
    registry.client.delete_registered_model(registry.usecase)
    register(registry.client, registry.usecase, versions=1)
    registry.client.set_registered_model_alias(registry.usecase, "production", "1")
    registry.reconcile()
    assert seen(registry) == ({"1": "Production"}, {"production": "1"})
    assert registry.standing().earlier == ()
    assert "registered anew" in registry.ledger.entries(registry.usecase)[-2].why


def test_what_is_no_name_is_refused() -> None:
    with pytest.raises(BadInput, match="is no name of a use case"):
        open_registry("../steel' OR 1=1")


def test_two_promotions_at_once_take_turns(registry: Registry) -> None:
    inside: list[int] = []
    overlaps: list[int] = []

    def contend(version: str) -> None:
        with alone(registry.usecase):
            inside.append(1)
            overlaps.append(len(inside))
            registry.reconcile()
            promote(registry, version)
            inside.pop()

    threads = [threading.Thread(target=contend, args=(version,)) for version in ("1", "2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [1, 1, 1]
    stages, aliases = seen(registry)
    assert list(stages.values()).count("Production") == 1
    assert stages[aliases["production"]] == "Production"


def test_whoever_only_looks_does_not_wait(registry: Registry) -> None:
    registry.client.transition_model_version_stage(registry.usecase, "1", "Production")
    with alone(registry.usecase):
        assert look(registry) == []
    assert look(registry)


class Promotions(RuleBasedStateMachine):
    """Promotions, rollbacks, archives, kills at any write, and people in the pages."""

    client: MlflowClient
    ledger: Ledger
    without: frozenset[str] = frozenset()

    @initialize()
    def begin(self) -> None:
        name = f"m-{uuid.uuid4().hex[:12]}"
        register(self.client, name, versions=3)
        self.life: list[int] = []
        self.registry = Registry(
            name,
            Mortal(self.client, self.life, self.without),  # type: ignore[arg-type]
            Mortal(self.ledger, self.life),  # type: ignore[arg-type]
        )
        self.moves = 0

    def attempt(self, action: str, version: str, change: Callable[[Standing], Standing], writes: int) -> None:
        """A move by a process that dies after `writes` writes; the next process looks, as every command does."""
        self.registry.reconcile()
        self.life[:] = [writes]
        try:
            self.registry.move(action, version, change(self.registry.standing()), "because")
            self.moves += 1
        except BadInput:
            pass
        except Killed:
            self.moves += unfinished(self.ledger.entries(self.registry.usecase)) is not None
        finally:
            self.life.clear()

    @rule(version=st.sampled_from("123"), stage=st.sampled_from(["Staging", "Production"]), writes=st.integers(0, 12))
    def promotes(self, version: str, stage: Any, writes: int) -> None:
        self.attempt("promotion", version, lambda standing: promoted(standing, version, stage), writes)

    @rule(writes=st.integers(0, 12))
    def rolls_back(self, writes: int) -> None:
        self.attempt("rollback", "1", rolled_back, writes)

    @rule(version=st.sampled_from("123"), writes=st.integers(0, 12))
    def archives(self, version: str, writes: int) -> None:
        self.attempt("archive", version, lambda standing: archived(standing, version), writes)

    @precondition(lambda self: not self.without)
    @rule(
        version=st.sampled_from("123"),
        stage=st.sampled_from(["None", "Staging", "Production", "Archived"]),
        archive=st.booleans(),
    )
    def somebody_moves_a_stage(self, version: str, stage: str, archive: bool) -> None:
        archive = archive and stage in ("Staging", "Production")
        self.client.transition_model_version_stage(self.registry.usecase, version, stage, archive)

    @rule(version=st.sampled_from("123"), alias=st.sampled_from(["production", "staging", "previous"]))
    def somebody_moves_an_alias(self, version: str, alias: str) -> None:
        self.client.set_registered_model_alias(self.registry.usecase, alias, version)

    @rule(alias=st.sampled_from(["production", "staging"]))
    def somebody_deletes_an_alias(self, alias: str) -> None:
        self.client.delete_registered_model_alias(self.registry.usecase, alias)

    @invariant()
    def a_look_leaves_one_truth(self) -> None:
        self.registry.reconcile()
        stages, aliases = seen(self.registry)
        entries = self.ledger.entries(self.registry.usecase)
        known = standing(entries)
        assert aliases == known.aliases()
        assert set(aliases.values()) <= set(stages), "previous and all others can be reached"
        if not self.without:
            assert stages == {version: known.stage_of(version) for version in stages}
            assert list(stages.values()).count("Production") <= 1
            assert list(stages.values()).count("Staging") <= 1
        assert unfinished(entries) is None
        now = {tenure.version: tenure.stage for tenure in tenures(entries) if tenure.end is None}
        assert now == {v: known.stage_of(v) for v in stages if known.stage_of(v) != "None"}, "the history is complete"
        finished = [entry for entry in entries if entry.kind in ("done", "abandoned")]
        assert len(finished) == self.moves, "no move is lost and none is doubled"
        assert self.ledger.tampered(self.registry.usecase) is None


SEQUENCES = settings(
    max_examples=200, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@pytest.mark.parametrize("without", [frozenset(), STAGE_METHODS], ids=["with stages", "without stages"])
def test_random_sequences_keep_one_truth(client: MlflowClient, ledger: Ledger, without: frozenset[str]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    examples = 200 if not without else 50
    machine = type("Machine", (Promotions,), {"client": client, "ledger": ledger, "without": without})
    run_state_machine_as_test(machine, settings=settings(SEQUENCES, max_examples=examples))


PROMOTE_FOREVER = """
import itertools, sys
from mlflow import MlflowClient
from labline.ledger import Ledger
from labline.standing import promoted
from tasks.registry import Registry
name, mlflow, ledger = sys.argv[1:]
registry = Registry(name, MlflowClient(mlflow, mlflow), Ledger(ledger))
for version in itertools.cycle("123"):
    registry.reconcile()
    registry.move("promotion", version, promoted(registry.standing(), version, "Production"), "next")
    print(version, flush=True)
"""


@pytest.mark.parametrize("after", [0.0, 0.013, 0.029])
def test_a_process_killed_between_two_writes_leaves_one_truth(
    client: MlflowClient, ledger: Ledger, registry: Registry, after: float
) -> None:
    """kill -9, for real, at some moment of an endless series of promotions."""
    command = [sys.executable, "-W", "ignore", "-c", PROMOTE_FOREVER, registry.usecase, client.tracking_uri]
    process = subprocess.Popen([*command, ledger.address], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    done = [process.stdout.readline().strip() for _ in range(3)]
    time.sleep(after)
    process.kill()
    done += process.stdout.read().split()
    process.wait()
    registry.reconcile()
    stages, aliases = seen(registry)
    assert list(stages.values()).count("Production") == 1
    assert stages[aliases["production"]] == "Production"
    kinds = [entry.kind for entry in ledger.entries(registry.usecase)]
    assert kinds.count("done") == kinds.count("intent") >= len(done)
    assert not registry.disagreements()
