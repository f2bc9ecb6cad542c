"""Validating and cleaning a manifest of a million rows: Great Expectations and labline beside plain pandas.

labline's sides are what the stages call: the shipped suite of 33 expectations, in two passes and with its Data Docs
page, and the checks for exact duplicates and outliers, which need no pixels. The plain sides
(`benchmarks/plain_checks.py`) do the same sums on the same manifest, without suite, severities, descriptions and page.
Both must reject the same rows. Imports are not counted.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import plain_checks
from benchmarks.manifests import LABELS, made_up
from benchmarks.turns import summary, take_turns, timed
from labline.data.duplicates import exact_duplicates
from labline.data.outliers import outliers
from labline.errors import LablineError
from tasks.environment import EXPECTATIONS
from tasks.expectation_suite import check_manifest

MINUTES = 3.0
ROUNDS = 3
ROWS = 1_000_000


def measure(rows: int = ROWS, rounds: int = ROUNDS) -> dict[str, Any]:
    """All sides; `ratio` is the seconds of Great Expectations over those of plain pandas, `ratio_cleaning` likewise.

    Raises LablineError where the two sides do not reject the same rows.
    """
    validate(made_up(1000))  # what is imported on first use
    manifest = made_up(rows)
    _compare(manifest)
    sound = manifest.dropna()
    turns = take_turns(
        {
            "validate, labline": lambda: timed(lambda: validate(manifest)),
            "validate, pandas": lambda: timed(lambda: plain_checks.validate(manifest, LABELS)),
            "clean, labline": lambda: timed(lambda: clean(sound)),
            "clean, pandas": lambda: timed(lambda: plain_checks.clean(sound)),
        },
        rounds,
    )
    found = {name: summary(turn) for name, turn in turns.items()}
    return {
        "name": "validation",
        "ratio": found["validate, labline"]["seconds"] / found["validate, pandas"]["seconds"],
        "ratio_cleaning": found["clean, labline"]["seconds"] / found["clean, pandas"]["seconds"],
        "ours": {name: side for name, side in found.items() if name.endswith("labline")},
        "theirs": {name: side for name, side in found.items() if name.endswith("pandas")},
        "settings": {"rows": rows, "rounds": rounds},
        "versions": {"great-expectations": version("great-expectations"), "pandas": version("pandas")},
    }


def table(result: dict[str, Any]) -> str:
    """The result for a person to read."""
    lines = [f"{'side':20} seconds  lowest highest   cpu s"]
    sides = {**result["ours"], **result["theirs"]}
    for name in sorted(sides, reverse=True):
        side = sides[name]
        lines.append(
            f"{name:20} {side['seconds']:7.2f} {side['lowest']:7.2f} {side['highest']:7.2f} {side['cpu_seconds']:7.2f}"
        )
    lines.append(
        f"{result['settings']['rows']:,} rows: Great Expectations takes {result['ratio']:.1f} times the seconds of "
        f"plain pandas, labline's cleaning {result['ratio_cleaning']:.1f} times"
    )
    return "\n".join(lines)


def validate(manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows that the shipped suite rejects, as the stage finds them."""
    with tempfile.TemporaryDirectory(prefix="labline-benchmark-") as directory:
        return check_manifest(manifest, EXPECTATIONS / "images.json", LABELS, Path(directory)).failing


def clean(manifest: pd.DataFrame) -> pd.DataFrame:
    """Exact duplicates out, then outliers, as the cleaning stage does."""
    kept = manifest[~manifest["sample_id"].isin(exact_duplicates(manifest)["sample_id"])]
    return kept[~kept["sample_id"].isin(outliers(kept)["sample_id"])]


def _compare(manifest: pd.DataFrame) -> None:
    """Raise LablineError unless both sides reject the same rows."""
    ours = set(validate(manifest)["sample_id"])
    named = plain_checks.validate(manifest, LABELS)[1]
    theirs = set(named.loc[~named["check"].isin(["neither dark nor bright", "some contrast"]), "sample_id"])
    if ours != theirs:
        raise LablineError(
            f"Great Expectations rejects {len(ours)} rows, plain pandas {len(theirs)}: not the same ones"
        )
    sound = manifest.dropna()
    if set(clean(sound)["sample_id"]) != set(plain_checks.clean(sound)["sample_id"]):
        raise LablineError("labline's cleaning and that in plain pandas do not keep the same rows")
