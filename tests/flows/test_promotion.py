"""`labline promote`, `rollback`, `archive`, `history` and `compare` on real servers: two versions and their careers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from outside import labline
from small_runs import SMALL, Ended, invoke

from flows.training import training
from labline.errors import LablineError
from tasks.judging import judge_version
from tasks.moving import promote
from tasks.registry import open_registry

NAME = "promoted"
BETTER = [*SMALL, f"name={NAME}", "training.epochs=12"]
CRIPPLED = [*SMALL, f"name={NAME}", "training.epochs=1", "training.learning_rate=1e-6"]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@dataclass(frozen=True)
class Moved:
    """How a command ended, and where MLflow said that the versions stood after it."""

    command: Ended
    stages: dict[str, str]
    aliases: dict[str, str]

    @property
    def summary(self) -> dict[str, Any]:
        """What it printed with --json."""
        return self.command.summary


def seen(command: Ended) -> Moved:
    client = MlflowClient()
    stages = {str(found.version): found.current_stage for found in client.search_model_versions(f"name = '{NAME}'")}
    aliases: Any = client.get_registered_model(NAME).aliases
    return Moved(command, stages, {alias: str(version) for alias, version in aliases.items()})


@pytest.fixture(scope="module")
def career(servers: dict[str, str]) -> dict[str, Moved]:
    """Version 1 and a crippled version 2, moved by one command after the other; some as processes of their own."""
    for settings in (BETTER, CRIPPLED):
        training("surface", assignments=settings)
    two = ("--version", "2", "--json")
    stale = judge_version(open_registry(NAME), "2", "Production", None)  # nothing is in Production yet
    done = {
        "staged": seen(labline(servers, "promote", NAME, "--version", "1", "--json")),
        "produced": seen(labline(servers, "promote", NAME, "--who", "anna", "--reason", "first", "--json")),
        "dry": seen(invoke("promote", NAME, "--to", "production", "--dry-run", *two)),
        "refused": seen(invoke("promote", NAME, "--to", "production", *two)),
        "forced": seen(invoke("promote", NAME, "--to", "production", "--force", "--reason", "line is down", *two)),
        "rolled back": seen(labline(servers, "rollback", NAME, "--reason", "scrap doubled", "--json")),
        "staged again": seen(invoke("promote", NAME, "--to", "staging", *two)),
        "archived": seen(invoke("archive", NAME, *two)),
    }
    with pytest.raises(LablineError, match="went from no version to version 1 while version 2 was judged"):
        promote(open_registry(NAME), stale, "", None)
    return done


def test_a_version_climbs_one_stage_at_a_time(career: dict[str, Moved]) -> None:
    staged, produced = career["staged"], career["produced"]
    assert (staged.summary["stage"], staged.summary["moved"], staged.command.code) == ("Staging", True, 0)
    assert (staged.stages["1"], staged.aliases) == ("Staging", {"staging": "1"})
    assert (produced.summary["version"], produced.summary["stage"]) == ("1", "Production"), "the one in Staging"
    assert (produced.stages, produced.aliases) == ({"1": "Production", "2": "None"}, {"production": "1"})


def test_a_dry_run_says_what_would_be_and_moves_nothing(career: dict[str, Moved]) -> None:
    dry = career["dry"]
    assert (dry.command.code, dry.summary["passed"], dry.summary["moved"]) == (0, False, False)
    assert (dry.stages, dry.aliases) == (career["produced"].stages, career["produced"].aliases)


def test_a_worse_version_is_refused_for_production(career: dict[str, Moved]) -> None:
    refused = career["refused"]
    assert refused.command.code == 3
    assert "accuracy against version 1" in refused.summary["error"]
    assert "accuracy against version 1" in refused.command.err
    assert (refused.stages, refused.aliases) == (career["produced"].stages, career["produced"].aliases)


def test_the_table_of_gates_stays_with_the_version(career: dict[str, Moved]) -> None:
    client = MlflowClient()
    version = client.get_model_version(NAME, "2")
    (table, *_) = [
        file.path for file in client.list_artifacts(version.run_id, "promotion") if "production" in file.path
    ]
    text = client.download_artifacts(version.run_id, table.rpartition(".")[0] + ".md")
    assert "| accuracy against version 1 |" in Path(text).read_text()
    assert version.tags["gates.production"].startswith("refused")
    assert version.tags["gates.production.accuracy-against-version-1"].startswith("refused")
    assert version.tags["gates.production.infrastructure"].startswith("passed")


def test_force_moves_it_all_the_same(career: dict[str, Moved]) -> None:
    forced = career["forced"]
    assert (forced.command.code, forced.summary["moved"], forced.summary["previous"]) == (0, True, "1")
    assert forced.stages == {"1": "Archived", "2": "Production"}
    assert forced.aliases == {"production": "2", "previous": "1"}


def test_a_rollback_restores_the_version_before(career: dict[str, Moved]) -> None:
    back = career["rolled back"]
    assert (back.summary["production"], back.summary["previous"]) == ("1", None)
    assert (back.stages, back.aliases) == ({"1": "Production", "2": "Archived"}, {"production": "1"})


def test_archiving_takes_a_version_out_of_its_stage(career: dict[str, Moved]) -> None:
    assert career["staged again"].stages["2"] == "Staging", "alone it passes: no gate is declared"
    archived = career["archived"]
    assert (archived.stages, archived.aliases) == ({"1": "Production", "2": "Archived"}, {"production": "1"})


def test_the_history_tells_who_moved_what_and_why(career: dict[str, Moved]) -> None:
    history = invoke("history", NAME, "--json").summary
    told = [(row["version"], row["stage"], row["action"]) for row in history["tenures"] if row["stage"] == "Production"]
    assert told == [
        ("1", "Production", "promotion"),
        ("2", "Production", "forced promotion"),
        ("1", "Production", "rollback"),
    ]
    first, forced, back = [row for row in history["tenures"] if row["stage"] == "Production"]
    assert (first["who"], first["why"]) == ("anna", "first")
    assert forced["why"] == "line is down" and len(forced["evidence"]) == 64
    assert back["why"] == "scrap doubled" and back["end"] is None
    assert [row["outcome"] for row in history["unmoved"]] == ["refused"]
    assert history["tampered_entry"] is None


def test_the_past_can_be_asked(career: dict[str, Moved]) -> None:
    assert invoke("history", NAME, "--at", "2020-01-01", "--json").summary["production"] is None
    assert invoke("history", NAME, "--at", "2100-01-01", "--json").summary["production"] == "1"


def test_two_versions_are_compared_on_the_same_rows(career: dict[str, Moved]) -> None:
    compared = invoke("compare", NAME, "1", "2", "--json").summary
    assert compared["versions"] == ["1", "2"]
    assert compared["samples"] > 50
    assert compared["difference"] == pytest.approx(compared["challenger"] - compared["champion"])
    assert compared["low"] <= compared["difference"] <= compared["high"] < 0
    assert compared["made_of"]["training.epochs"] == [12, 1]


@pytest.mark.parametrize(("event", "version"), [("promoted", "2"), ("rolled-back", "1"), ("archived", "2")])
def test_every_move_is_an_event(career: dict[str, Moved], servers: dict[str, str], event: str, version: str) -> None:
    wanted = {
        "event": {"name": [f"labline.version.{event}"]},
        "related": None,
        "resource": {"id": [f"labline.model.{NAME}"]},
    }
    for _ in range(240):
        found = httpx.post(f"{servers['prefect']}/api/events/filter", json={"filter": wanted}).json()["events"]
        if version in [each["payload"]["version"] for each in found]:
            return
        time.sleep(0.25)
    raise AssertionError(f"no event labline.version.{event} of version {version} in {found}")


def test_a_registry_that_somebody_broke_is_mended(career: dict[str, Moved]) -> None:
    MlflowClient().delete_registered_model_alias(NAME, "production")
    broken = invoke("doctor", "--json")
    assert broken.code == 2
    assert "alias production is not set, expected version 1" in finding(broken)["seen"]
    assert finding(broken)["advice"] == "labline doctor --repair"
    assert finding(invoke("doctor", "--repair", "--json"))["seen"].startswith("mended: alias production")
    assert finding(invoke("doctor", "--json"))["ok"]
    assert seen(broken).aliases == {"production": "1"}


def finding(doctor: Ended) -> dict[str, Any]:
    """What the doctor says of the registry."""
    (found,) = [each for each in doctor.summary["findings"] if each["subject"] == f"registry: {NAME}"]
    return dict(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("promote", "stele"), "nothing is registered as"),
        (("history", "stele"), "nothing is registered as"),
        (("promote", NAME, "--version", "99"), "has no version 99"),
        (("promote", NAME, "--version", "1"), "version 1 is in Production already"),
        (("promote", NAME, "--version", "1", "--to", "staging"), "it cannot enter Staging"),
        (("promote", NAME, "--to", "prodution"), "did you mean 'production'?"),
        (("promote", NAME, "--to", "prodution", "--wait-for-approval"), "did you mean 'production'?"),
        (("archive", NAME, "--version", "99"), "has no version 99"),
        (("archive", NAME, "--version", "2"), "version 2 is Archived already"),
        (("compare", NAME, "1", "99"), "has no version 99"),
        (("history", NAME, "--at", "yesterday"), "expected a date such as 2026-11-24"),
        (("rollback", NAME), "there is no earlier Production version"),
    ],
)
def test_what_cannot_be_done_is_one_message(career: dict[str, Moved], words: tuple[str, ...], message: str) -> None:
    refused = invoke(*words)
    assert refused.code == 2
    assert refused.err.count("error: ") == 1 and message in refused.err
