"""`labline list` and `labline show`: what is declared and what is registered."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tasks.environment import USECASES, load_environment


def list_usecases(json: bool) -> None:
    """Print every shipped use case with its newest registered version."""
    from rich.console import Console
    from rich.table import Table

    from flows.console import print_json_line
    from labline.declaration import load_usecase

    load_environment()
    rows: list[dict[str, Any]] = []
    for path in sorted(USECASES.glob("*.toml")):
        declaration = load_usecase(path.stem, USECASES)
        newest = _newest_version(declaration.name)
        rows.append(
            {
                "usecase": declaration.name,
                "title": declaration.title,
                "data": _data_state(declaration.data.path),
                **newest,
            }
        )
    table = Table("use case", "what", "data", "version", "stage", "test accuracy")
    for row in rows:
        table.add_row(*(str(row[key] or "-") for key in ("usecase", "title", "data", "version", "stage", "accuracy")))
    Console(stderr=json).print(table)
    if json:
        print_json_line({"usecases": rows})


def show_usecase(usecase: str, data: str | None, assignments: list[str], json: bool) -> None:
    """Print a declaration, resolved."""
    from labline.declaration import as_toml, load_usecase

    declaration = load_usecase(usecase, USECASES, assignments, data)
    if json:
        from flows.console import print_json_line

        print_json_line(declaration.model_dump())
    else:
        print(as_toml(declaration), end="")


def _newest_version(usecase: str) -> dict[str, str | None]:
    """Version, stage and accuracy of the newest registered version; a database is not created to find none."""
    none: dict[str, str | None] = {"version": None, "stage": None, "accuracy": None}
    tracking = os.environ["MLFLOW_TRACKING_URI"]
    if tracking.startswith("sqlite:///") and not Path(tracking.removeprefix("sqlite:///")).is_file():
        return none
    from mlflow import MlflowClient

    versions = MlflowClient().search_model_versions(f"name = '{usecase}'")
    if not versions:
        return none
    newest = max(versions, key=lambda version: int(version.version))
    return {"version": str(newest.version), "stage": newest.current_stage, "accuracy": newest.tags.get("accuracy")}


def _data_state(path: str | None) -> str:
    from labline.declaration import expand
    from labline.errors import BadInput

    if path is None:
        return "built in"
    try:
        return "found" if expand(path, "data.path").exists() else "missing"
    except BadInput:
        return "LABLINE_DATA not set" if "LABLINE_DATA" in path else "variable not set"
