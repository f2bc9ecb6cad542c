"""What a version in Production is compared with: the answers under known shifts that are kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from saved_reference import answers

from labline.reference import Reference
from tasks.version import Version
from tasks.watched import _kept_shifted


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Version:
    monkeypatch.setenv("LABLINE_STORE", str(tmp_path))
    return Version("steel", "3", "", {"chosen.sha256": "a" * 64}, tmp_path)


def test_answers_under_shifts_are_kept_for_a_model_its_rows_and_these_shifts(
    version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = answers(20, seed=0)
    path = _kept_shifted(version, rows)
    assert _kept_shifted(version, rows) == path
    other_model = Version("steel", "4", "", {"chosen.sha256": "b" * 64}, tmp_path)
    fewer_rows = Reference(rows.rows[:10], rows.outputs[:10], None, rows.features)
    (tmp_path / "shifts_of_tomorrow.py").write_text("SHIFTS = {}")
    monkeypatch.syspath_prepend(str(tmp_path))
    others = {_kept_shifted(other_model, rows), _kept_shifted(version, fewer_rows)}
    monkeypatch.setattr("tasks.watched.SHIFTERS", ("shifts_of_tomorrow",))
    others.add(_kept_shifted(version, rows))
    assert len(others | {path}) == 4
    assert "shifts_of_tomorrow" not in sys.modules, "sources are read, not run"
