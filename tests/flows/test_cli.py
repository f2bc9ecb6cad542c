"""The command line as a user meets it: processes, exit codes, JSON on the last line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import SMALL, Ended, invoke
from typer.testing import CliRunner

from flows.cli import app


def settings() -> list[str]:
    return [word for assignment in SMALL for word in ("--set", assignment)]


def test_a_run_ends_with_0_its_second_run_is_cached_and_a_gate_ends_with_3(labline: Callable[..., Ended]) -> None:
    first = labline("run", "surface", "--json", *settings())
    assert first.code == 0, first.err
    assert first.summary["version"] == "1"
    assert len(first.out.strip().splitlines()) == 1, "everything but the summary belongs on standard error"

    second = labline("run", "surface", *settings())
    assert second.code == 0, second.err
    assert "cached" in second.out
    assert "MLflow run:" in second.out

    refused = labline("run", "surface", "--json", *settings(), "--set", "gates={accuracy={min=1.01}}")
    assert refused.code == 3
    assert "accuracy" in refused.summary["error"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "surfce"], "did you mean 'surface'"),
        (["run", "surface", "--set", "training.epoch=3"], "did you mean 'epochs'"),
        (["run", "surface", "--set", "training.epochs=none"], "training.epochs"),
        (["check", "nowhere.toml"], "nowhere.toml"),
        (["show", "surface", "--set", "nonsense"], "section.key=value"),
    ],
)
def test_bad_input_ends_with_2_and_one_message(arguments: list[str], told: str) -> None:
    ended = CliRunner().invoke(app, [*arguments, "--json"])
    assert ended.exit_code == 2
    assert told in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize(
    ("written", "misspelt", "told"),
    [
        ("epochs", "epoch", "training.epoch: unknown key; did you mean 'epochs'"),
        ("[cleaning]", "[cleanning]", "cleanning: unknown key; did you mean 'cleaning'"),
        ("image_size", "imagesize", "data.imagesize: unknown key; did you mean 'image_size'"),
    ],
)
def test_a_misspelt_key_names_the_file_the_key_and_the_nearest_one(
    parts: Path, written: str, misspelt: str, told: str
) -> None:
    parts.write_text(parts.read_text().replace(written, misspelt))
    for command in ("run", "check", "show"):
        ended = invoke(command, str(parts), "--json")
        assert ended.code == 2
        assert f"{parts} cannot be used" in ended.err
        assert told in ended.err
        assert ended.summary == {"error": ended.summary["error"], "exit_code": 2}


@pytest.mark.usefixtures("servers")
def test_check_speaks_json() -> None:
    ended = invoke("check", "surface", "--json", *settings())
    assert ended.code == 0, ended.err
    summary = ended.summary
    assert summary.keys() == {"usecase", "samples", "quarantined", "stages"}
    assert summary["usecase"] == "surface"
    assert summary["samples"] + summary["quarantined"] >= 600
    assert [stage["name"] for stage in summary["stages"]] == ["ingest", "validate", "augment"]
    for stage in summary["stages"]:
        assert stage.keys() == {"name", "seconds", "cached", "figure", "reason"}
    assert len(ended.out.strip().splitlines()) == 1, "everything but the summary belongs on standard error"


@pytest.mark.usefixtures("servers")
def test_a_real_use_case_without_its_data_says_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABLINE_DATA", raising=False)
    ended = invoke("check", "steel")
    assert ended.code == 2
    assert "LABLINE_DATA is not set" in ended.err


def test_a_storage_root_that_is_a_file_ends_with_2(labline: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = labline("run", "surface", store=tmp_path / "file")
    assert ended.code == 2
    assert "LABLINE_STORE" in ended.err


def test_help_teaches() -> None:
    for arguments in ([], ["run"], ["check"], ["doctor"], ["ui"]):
        ended = CliRunner().invoke(app, [*arguments, "--help"])
        assert ended.exit_code == 0
    assert "Exit codes" in CliRunner().invoke(app, ["--help"]).output


def test_list_show_and_doctor_speak_json(labline: Callable[..., Ended]) -> None:
    listed = labline("list", "--json").summary["usecases"]
    assert {"surface", "steel", "pneumonia", "cifar10"} <= {row["usecase"] for row in listed}
    assert labline("show", "steel", "--json").summary["data"]["source"] == "image-folder"
    seen = labline("doctor", "--json")
    assert {"python", "torch", "storage root"} <= {finding["subject"] for finding in seen.summary["findings"]}
