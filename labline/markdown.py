"""Tables in Markdown, for model cards and Prefect pages."""

from __future__ import annotations

import numpy as np
import pandas as pd


def markdown_table(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table: four significant digits, undefined figures as a dash."""
    header = "| " + " | ".join(map(str, frame.columns)) + " |\n|" + " --- |" * len(frame.columns)
    rows = ("| " + " | ".join(map(cell, row)) + " |" for row in frame.itertuples(index=False))
    return "\n".join([header, *rows])


def cell(value: object) -> str:
    """One value: four significant digits, thousands separated, nothing that breaks a table."""
    if isinstance(value, float):
        return "–" if np.isnan(value) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")
