"""The benchmarks' command line, and the CIFAR-10 comparison on images small enough for a test."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import cifar10
from benchmarks.__main__ import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    return main()


def test_without_a_name_they_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch) == 0
    assert "cifar10" in capsys.readouterr().out


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "cifar") == 2
    assert "did you mean 'cifar10'?" in capsys.readouterr().err


def test_missing_data_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("LABLINE_DATA", raising=False)
    assert run(monkeypatch, "cifar10", "--json") == 2
    assert "LABLINE_DATA" in capsys.readouterr().err


def test_both_sides_are_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    samples = random.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), random.integers(0, 10, 64)
    monkeypatch.setattr(cifar10, "_splits", lambda: (samples, samples, samples))
    monkeypatch.setattr(cifar10, "GOAL", -1.0)
    assert run(monkeypatch, "cifar10", "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ratio"] == pytest.approx(result["ours"]["seconds"] / result["theirs"]["seconds"])
    assert result["theirs"]["epochs"] == 5
    assert {"machine", "versions"} < set(result)


def test_a_goal_that_is_missed_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = np.zeros((32, 32, 32, 3), np.uint8), np.arange(32) % 10
    monkeypatch.setattr(cifar10, "_splits", lambda: (samples, samples, samples))
    assert run(monkeypatch, "cifar10") == 1
    assert "not past the goal of 77.10%" in capsys.readouterr().err
