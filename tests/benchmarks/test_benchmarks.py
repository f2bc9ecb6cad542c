"""The benchmarks' command line, and the CIFAR-10 comparison on images small enough for a test."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import benchmarks
from benchmarks import cifar10
from benchmarks.__main__ import main
from benchmarks.turns import take_turns, timed_process
from labline.errors import LablineError

TINY = '''"""Seconds of nothing beside as much of nothing.

What it is good for.
"""
from pathlib import Path
from benchmarks.turns import summary, take_turns

MINUTES = 0.5

def measure():
    log = Path(__file__).with_suffix(".log")
    log.write_text((log.read_text() if log.exists() else "") + "x")
    runs = len(log.read_text())
    sides = {"ours": lambda: {"seconds": 1.0 * runs}, "theirs": lambda: {"seconds": 2.0}}
    found = {name: summary(turns) for name, turns in take_turns(sides, 3).items()}
    return {"name": "tiny", "ratio": found["ours"]["seconds"] / 2, "versions": {"nothing": "1"}, **found}

def table(result):
    return f"half as long: {result['ratio']}"
'''


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`python -m benchmarks ARGUMENTS`, whose results are kept below the test's own folder."""

    def call(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["benchmarks", *arguments, "--folder", str(tmp_path / "kept")])
        return main()

    return call


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder beside the shipped benchmarks, with two more of them: `tiny`, which counts its runs, and `broken`."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "tiny.py").write_text(TINY)
    (folder / "broken.py").write_text(
        '"""Fails."""\nfrom labline.errors import BadInput\n\ndef measure():\n    raise BadInput("no such data")\n'
    )
    (folder / "no_benchmark.py").write_text("def help_others(): ...")
    monkeypatch.setattr(benchmarks, "__path__", [str(folder)])
    for name in ("tiny", "broken"):
        monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)
    return folder


def test_they_are_listed_with_the_minutes_they_take(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--list") == 0
    listed = capsys.readouterr().out
    assert "cifar10" in listed and "overhead" in listed and " min " in listed
    assert "plain_chain" not in listed, "it measures nothing by itself"


def test_a_new_file_with_a_measure_is_a_benchmark(
    tiny: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["broken", "tiny"]


def test_the_result_is_printed_and_kept(
    tiny: Path, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tiny", "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ratio"] == 0.5
    assert result["ours"] == {"seconds": 1.0, "lowest": 1.0, "highest": 1.0, "rounds": 3}
    assert result["versions"]["nothing"] == "1" and "torch" in result["versions"]
    assert {"processor", "cores", "load_average"} <= set(result["machine"])
    kept = json.loads((tmp_path / "kept" / "results" / "tiny.json").read_text())
    assert kept["ours"] == result["ours"]


def test_the_page_shows_what_was_measured_now_and_earlier(tiny: Path, run: Callable[..., int], tmp_path: Path) -> None:
    earlier = {"name": "broken", "ratio": 3, "measured": "2020-02-02", "table": ["three times"], "machine": {}}
    (tmp_path / "kept" / "results").mkdir(parents=True)
    (tmp_path / "kept" / "results" / "broken.json").write_text(json.dumps(earlier))
    for expected in ("half as long: 0.5", "half as long: 1.0"):
        run("tiny")
        page = (tmp_path / "kept" / "RESULTS.md").read_text()
        assert expected in page and "What it is good for." in page and "nothing 1" in page
        assert "three times" in page and "2020-02-02" in page
    assert page.count("## tiny") == 1


def test_no_name_runs_all_and_a_failure_does_not_end_the_others(
    tiny: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 2
    printed = capsys.readouterr()
    assert "broken: no such data" in printed.err
    assert "half as long" in printed.out


def test_an_unknown_name_is_refused_before_anything_is_measured(
    tiny: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tiny", "tinny") == 2
    assert "did you mean 'tiny'?" in capsys.readouterr().err
    assert not (tiny / "tiny.log").exists()


def test_turns_alternate() -> None:
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) or {"seconds": 1.0} for name in ("a", "b")}
    take_turns(sides, 3)
    assert "".join(order) == "abbaab"


def test_a_process_that_fails_is_told_of() -> None:
    with pytest.raises(LablineError, match="failed with 1: .*no such thing"):
        timed_process([sys.executable, "-c", "raise ValueError('no such thing')"])


def test_missing_data_is_refused(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LABLINE_DATA", raising=False)
    assert run("cifar10", "--json") == 2
    assert "LABLINE_DATA" in capsys.readouterr().err


def test_both_sides_are_measured(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    samples = random.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), random.integers(0, 10, 64)
    monkeypatch.setattr(cifar10, "_splits", lambda: (samples, samples, samples))
    monkeypatch.setattr(cifar10, "GOAL", -1.0)
    assert run("cifar10", "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ratio"] == pytest.approx(result["ours"]["seconds"] / result["theirs"]["seconds"])
    assert result["theirs"]["epochs"] == 5
    assert {"machine", "versions"} < set(result)


def test_a_goal_that_is_missed_is_a_failure(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = np.zeros((32, 32, 32, 3), np.uint8), np.arange(32) % 10
    monkeypatch.setattr(cifar10, "_splits", lambda: (samples, samples, samples))
    assert run("cifar10") == 1
    assert "not past the goal of 77.10%" in capsys.readouterr().err
