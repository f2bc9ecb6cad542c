"""Data quality of production inputs: the suite that guarded the training data, as far as production shows the same."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labline.errors import BadInput
from labline.markdown import markdown_table
from labline.usecase import ImageUseCase
from tasks.environment import EXPECTATIONS
from tasks.expectation_suite import check_manifest, find_suite
from tasks.watched import Watched

if TYPE_CHECKING:
    import pandas as pd

SHOWN = ("sample_id", "label", "width", "height", "bytes", "mean", "std")  # what a window can show of a manifest
ON_VALUES = "expect_column_values_"
NOT_NULL = f"{ON_VALUES}to_not_be_null"


@dataclass(frozen=True)
class Quality:
    """What the suite found in a window: one row an expectation, see `tasks.expectation_suite.RESULT_COLUMNS`.

    `problems`: in plain words, the critical ones that fail. `note` says why nothing was checked, where nothing was.
    """

    results: pd.DataFrame
    problems: tuple[str, ...]
    note: str = ""

    def as_markdown(self) -> str:
        """For the Prefect page."""
        return self.note or markdown_table(self.results[["success", "column", "observed", "description"]])


def check_window(watched: Watched, window: pd.DataFrame, folder: Path) -> Quality:
    """Check a window's features and labels; Data Docs go to `folder`/data_docs.

    The tolerances are the suite's own (`mostly`). What production does not have (splits, files where raw pixels were
    sent, labels that have not come) is not asked for. Raises BadInput where the suite cannot be read.
    """
    import pandas as pd

    declaration = watched.version.declaration
    if not isinstance(declaration, ImageUseCase):
        return Quality(pd.DataFrame(), (), "the suite of a series guards its raw rows, which are not kept")
    rows = _as_manifest(window)
    labels = tuple(json.loads((watched.version.extra / "evaluation.json").read_text())["labels"])
    with tempfile.TemporaryDirectory() as scratch:
        suite = _shortened(find_suite(declaration.expectations.suite, EXPECTATIONS), rows, Path(scratch))
        if suite is None:
            return Quality(pd.DataFrame(), (), "the suite expects nothing of what production shows")
        found = check_manifest(rows, suite, labels, folder / "data_docs")
    problems = [f"{row['description']}: seen {row['observed']}" for row in found.critical.to_dict("records")]
    return Quality(found.results, tuple(problems))


def _as_manifest(window: pd.DataFrame) -> pd.DataFrame:
    """The window with the columns of a manifest; those that production does not have are empty or counted."""
    import numpy as np
    import pandas as pd

    kept = {name: window[name] if name in window else pd.Series(np.nan, index=window.index) for name in SHOWN[2:]}
    return pd.DataFrame(
        {
            "sample_id": window["id"],
            "split": "test",
            "label": window["label"],
            "row": np.arange(len(window)),
            "source": "production",
            "sha256": window["id"],
            **kept,
        }
    ).reset_index(drop=True)


def _shortened(suite: Path, rows: pd.DataFrame, folder: Path) -> Path | None:
    """The suite without what a window cannot show; None where nothing is left."""
    try:
        content = json.loads(suite.read_text(encoding="utf-8"))
        entries = content["expectations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{suite}: the suite cannot be read ({error})") from error
    seen = {name for name in SHOWN if rows[name].notna().any()}
    kept = [entry for entry in entries if _shown(entry, seen)]
    if not kept:
        return None
    path = folder / suite.name
    path.write_text(json.dumps(content | {"expectations": kept}), encoding="utf-8")
    return path


def _shown(entry: dict[str, Any], seen: set[str]) -> bool:
    """Whether an expectation is on values of a column that the window has, of whichever split."""
    kind, arguments = str(entry.get("type")), entry.get("kwargs", {})
    column = arguments.get("column")
    if kind == NOT_NULL and column == "label":
        return False  # one that has not come yet is no defect
    return kind.startswith(ON_VALUES) and column in seen and "row_condition" not in arguments
