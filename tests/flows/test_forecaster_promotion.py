"""Forecasters have careers as classifiers have: promoted, compared, refused, rolled back and reproduced."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from small_runs import Ended, invoke

from flows.forecasting import forecasting
from flows.reproduction import reproduce
from tasks.environment import storage_root
from tasks.registry import open_registry
from tasks.version import fetch_version, open_test_series

NAME = "tides"
SECOND = ("--version", "2", "--json")


def declaration_beside_its_data(folder: Path) -> Path:
    """Two harbours whose tides come and go: what can be learned from, unlike a made-up price."""
    random, hours = np.random.default_rng(0), np.arange(500)
    tables = [
        pd.DataFrame(
            {
                "date": pd.date_range("2024-01-01", periods=len(hours), freq="D"),
                "harbour": harbour,
                "close": 10 + np.sin(2 * np.pi * hours / 12 + phase) + random.normal(0, 0.1, len(hours)),
            }
        )
        for harbour, phase in (("north", 0.0), ("south", 1.0))
    ]
    pd.concat(tables).to_csv(folder / "tides.csv", index=False)
    path = folder / "tides.toml"
    path.write_text(
        f'name = "{NAME}"\ntitle = "Tides"\nmodality = "series"\n'
        f'[data]\nsource = "csv"\npath = "{folder}/tides.csv"\nentity = "harbour"\n'
        '[features]\ninputs = ["close", "difference(close)"]\nwindow = 12\ntarget = "value"\nhorizon = 2\n'
        '[model]\narchitecture = "rnn"\nwidth = 0.5\n[training]\nepochs = 10\nbatch_size = 32\nlearning_rate = 5e-3\n'
        'precision = "float32"\n[compression]\npasses = []\n[export]\nformats = ["onnx"]\n[gates]\nmse = {max = 1.0}\n'
    )
    return path


@dataclass(frozen=True)
class Career:
    """How the commands ended, by what they did, and which version the alias production named after each."""

    commands: dict[str, Ended]
    production: dict[str, str]

    def gates(self, command: str) -> dict[str, bool]:
        """Which gates held, by their names without what follows a colon."""
        table = self.commands[command].summary["judgements"]
        return {row["gate"].partition(":")[0]: row["passed"] for row in table}


@pytest.fixture(scope="module")
def career(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Career:
    """Version 1 has learned, version 2 has not, version 3 sees other features."""
    declared = str(declaration_beside_its_data(tmp_path_factory.mktemp("tides")))
    other = ['features.inputs=["difference(close)", "close", "rolling-mean(close, 5)"]', "features.window=10"]
    for settings in ([], ["training.epochs=1", "training.learning_rate=1e-6"], other):
        forecasting(declared, assignments=settings)
    moves = {
        "staged": ("promote", NAME, "--version", "1", "--json"),
        "produced": ("promote", NAME, "--json"),
        "refused": ("promote", NAME, "--to", "production", "--dry-run", *SECOND),
        "other": ("promote", NAME, "--to", "production", "--dry-run", "--version", "3", "--json"),
        "forced": ("promote", NAME, "--to", "production", "--force", "--reason", "a trial", *SECOND),
        "rolled back": ("rollback", NAME, "--json"),
    }
    commands, production = {}, {}
    for what, words in moves.items():
        commands[what] = invoke(*words)
        assert commands[what].code == 0, commands[what].err
        aliases = MlflowClient().get_registered_model(NAME).aliases
        production[what] = str(aliases.get("production", ""))
    return Career(commands, production)


def test_a_forecaster_climbs_to_production_by_its_gates(career: Career) -> None:
    assert career.gates("produced") == {"mse": True, "ONNX parity": True, "infrastructure": True}
    assert (career.production["staged"], career.production["produced"]) == ("", "1")


def test_one_that_has_learned_nothing_is_refused_against_the_champion(career: Career) -> None:
    gates = career.gates("refused")
    assert (gates["signature"], gates["mse against version 1"], gates["worst entity"]) == (True, False, False)
    (row,) = [row for row in career.commands["refused"].summary["judgements"] if row["gate"].startswith("mse against")]
    assert row["figure"] > 0.05 and row["limit"] == "difference at most 0.05 of the loss (95 % sure)"
    assert "Diebold–Mariano p =" in row["note"]


def test_other_features_change_the_signature_and_are_compared_all_the_same(career: Career) -> None:
    gates = career.gates("other")
    assert gates["signature"] is False
    assert "mse against version 1" in gates
    (row,) = [row for row in career.commands["other"].summary["judgements"] if row["gate"] == "signature"]
    assert "rolling-mean(close, 5)" in row["note"]


def test_force_and_rollback_move_forecasters_too(career: Career) -> None:
    assert (career.production["forced"], career.production["rolled back"]) == ("2", "1")


def test_two_forecasters_are_compared_on_the_same_windows(career: Career) -> None:
    compared = invoke("compare", NAME, "1", "2", "--json")
    found = compared.summary
    assert (found["metric"], found["relative"]) == ("mse", True)
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert [group["value"] for group in found["groups"]] == ["north", "south"]
    assert found["made_of"]["training.epochs"] == [10, 1]
    assert "Diebold–Mariano p" in compared.err and " %" in compared.err


def test_what_forecasts_something_else_is_not_compared(career: Career, tmp_path: Path) -> None:
    declared = str(declaration_beside_its_data(tmp_path))
    version = forecasting(declared, assignments=["features.horizon=3", "training.epochs=1"])["version"]
    refused = invoke("compare", NAME, "1", version)
    assert refused.code == 2
    assert "answer another question" in refused.err
    dry = invoke("promote", NAME, "--version", version, "--to", "production", "--dry-run", "--json").summary
    assert [row["gate"] for row in dry["judgements"]][-1] == "signature" and not dry["passed"]


def test_test_rows_that_are_gone_are_made_again(career: Career) -> None:
    version = fetch_version(open_registry(NAME), "1")
    kept = storage_root() / version.tags["dataset.directory"]
    before = open_test_series(version)
    kept.rename(kept.with_name("elsewhere"))
    again = open_test_series(version)
    np.testing.assert_array_equal(again.features, before.features)


def test_a_forecaster_is_reproduced_bit_for_bit(career: Career, tmp_path: Path) -> None:
    summary = reproduce(f"models:/{NAME}/1", keep=tmp_path / "kept")
    checks = {check["check"]: check["same"] for check in summary["checks"]}
    assert summary["reproduced"], json.dumps(summary, indent=1)
    assert {"dataset", "weights", "fp32 ONNX", "released ONNX (fp32)", "test mse", "test log score"} <= set(checks)
