"""The suite of a use case on production's inputs: what production does not have is not asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from labline.declaration import as_toml, load_usecase
from labline.monitoring.verdict import Verdict
from tasks.environment import USECASES
from tasks.examine_window import verdict_of
from tasks.production_quality import Quality, check_window
from tasks.version import Version
from tasks.watched import Watched

ROWS = 200


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """As much of a version of `surface` as the suite needs."""
    extra = tmp_path / "version" / "extra_files"
    extra.mkdir(parents=True)
    (extra / "usecase.toml").write_text(as_toml(load_usecase("surface", USECASES)))
    (extra / "evaluation.json").write_text(json.dumps({"labels": ["crazing", "patches"]}))
    return Watched(Version("surface", "1", "", {}, tmp_path / "version"), None)


def window(**columns: object) -> pd.DataFrame:
    """Predictions of raw pixels, a third of them labelled."""
    labels = [["crazing", None, None][row % 3] for row in range(ROWS)]
    usual = {
        "id": [f"{row:040x}" for row in range(ROWS)],
        "label": labels,
        "mean": 120.0,
        "std": np.linspace(20, 40, ROWS),
    }
    return pd.DataFrame(usual | columns)


def test_good_inputs_have_no_problem(watched: Watched, tmp_path: Path) -> None:
    quality = check_window(watched, window(), tmp_path)
    assert quality.problems == ()
    assert quality.results["success"].all()
    assert (tmp_path / "data_docs" / "index.html").is_file()
    assert {"split", "width", "sha256"}.isdisjoint(quality.results["column"]), "production has none of these"


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"mean": [np.nan] * 30 + [120.0] * (ROWS - 30)}, "mean is known"),
        ({"mean": [300.0] * 30 + [120.0] * (ROWS - 30)}, "mean brightness lies in the range"),
        ({"label": ["dragon"] * ROWS}, "the label is one of the declared labels"),
        ({"width": 4.0, "height": 64.0, "bytes": 900.0}, "8 to 65,535 pixels wide"),
    ],
)
def test_bad_inputs_are_a_problem_beyond_the_tolerance(
    watched: Watched, tmp_path: Path, columns: dict[str, object], problem: str
) -> None:
    quality = check_window(watched, window(**columns), tmp_path)
    assert any(problem in found for found in quality.problems), quality.problems


def test_a_few_bad_inputs_are_tolerated(watched: Watched, tmp_path: Path) -> None:
    few = check_window(watched, window(mean=[300.0] * 3 + [120.0] * (ROWS - 3)), tmp_path)
    assert few.problems == ()


@pytest.mark.parametrize(("kind", "becomes"), [("healthy", "watch"), ("watch", "watch"), ("retrain", "retrain")])
def test_bad_data_is_at_least_worth_a_look(kind: str, becomes: str) -> None:
    class Examined:
        verdict = Verdict(kind, ("as it was found",))  # type: ignore[arg-type]

    found = verdict_of(Examined(), Quality(pd.DataFrame(), ("mean is known: seen 30 times none",)))  # type: ignore[arg-type]
    assert found.kind == becomes
    assert found.reasons[0] == "data quality: mean is known: seen 30 times none"
