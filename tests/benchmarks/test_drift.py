"""The drift benchmark's parts: the samples, the sides on small ones, and how memory is measured."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import drift
from benchmarks.drift_side import MOVED, SIDES, labline, measured, samples


def test_every_fifth_feature_moves_and_no_other() -> None:
    found = labline()(samples(False, rows=4000), samples(True, rows=4000))["psi"]
    moved = {name for name, psi in found.items() if psi > 0.1}
    assert moved == {f"feature_{feature:02d}" for feature in range(0, 50, MOVED)}


@pytest.mark.skipif(find_spec("evidently") is None, reason="Evidently is not installed")
def test_both_find_the_same_wasserstein_distances() -> None:
    known, seen = (samples(moved, rows=2000, features=10) for moved in (False, True))
    ours, theirs = SIDES["labline"]()(known, seen), SIDES["evidently"]()(known, seen)
    assert theirs["wasserstein"].keys() == ours["wasserstein"].keys()
    assert drift._largest_difference(ours, theirs) < 1e-9


def test_the_peak_of_memory_is_that_of_the_stage() -> None:
    def stage(reference: pd.DataFrame, window: pd.DataFrame) -> dict[str, Any]:
        return {"sum": float(np.ones(8 * 2**20).sum())}  # 64 MiB

    assert measured(stage, rows=1000)["growth_mib"] == pytest.approx(64, abs=8)


def test_the_result_is_put_together_from_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {
        "labline": iter((1.0, 3.0, 2.0)),
        "evidently": iter((20.0, 21.0, 19.0)),
        "evidently-psi": iter((10.0,) * 3),
    }

    def turn(name: str) -> dict[str, Any]:
        found = {"wasserstein": {"feature_00": 0.5}}
        return {"seconds": next(seconds[name]), "cpu_seconds": 1.0, "peak_mib": 10.0, "growth_mib": 1.0, "found": found}

    monkeypatch.setattr(drift, "_turn", turn)
    result = drift.measure()
    assert (result["ratio"], result["ratio_psi"], result["memory_ratio"]) == (0.1, 0.2, 1.0)
    assert (result["ours"]["lowest"], result["ours"]["highest"]) == (1.0, 3.0)
    assert "0.100 of the seconds" in drift.table(result)
