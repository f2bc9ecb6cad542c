"""`labline list` and `labline show`: what is declared and what is registered."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.environment import USECASES, load_environment


def list_usecases(json: bool) -> None:
    """Print every shipped use case, and whatever else is registered, with the versions in its stages."""
    from rich.console import Console
    from rich.table import Column, Table

    from flows.console import print_json_line
    from labline.declaration import load_usecase, shipped_names

    load_environment()
    registered = registered_names()
    rows: list[dict[str, Any]] = []
    for name in shipped_names(USECASES):
        declaration = load_usecase(name, USECASES)
        row = {"usecase": declaration.name, "title": declaration.title, "data": _data_state(declaration.data_path)}
        rows.append(row | _versions(declaration.name, declaration.name in registered))
    for name in sorted(registered - {row["usecase"] for row in rows}):
        rows.append({"usecase": name, "title": "declared elsewhere", "data": "-"} | _versions(name, True))
    what = Column("what", no_wrap=True, ratio=1)
    table = Table(Column("use case", no_wrap=True), what, "data", "newest", "staging", "production", expand=True)
    for row in rows:
        newest = f"{row['version']}: {row['accuracy'] or row['loss'] or ''} {row['stage']}" if row["version"] else "-"
        shown = (row["usecase"], row["title"], row["data"], newest, row["staging"], row["production"])
        table.add_row(*(value or "-" for value in shown))
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


def registered_names() -> set[str]:
    """Every registered model; a database is not created to find none."""
    tracking = os.environ["MLFLOW_TRACKING_URI"]
    if tracking.startswith("sqlite:///") and not Path(tracking.removeprefix("sqlite:///")).is_file():
        return set()
    from mlflow import MlflowClient

    return {model.name for model in MlflowClient().search_registered_models(max_results=1000)}


def _versions(usecase: str, registered: bool) -> dict[str, str | None]:
    """The newest version, its stage, accuracy or loss, and the versions in Staging and Production, seen just now."""
    shown: dict[str, str | None] = dict.fromkeys(("version", "stage", "accuracy", "loss", "staging", "production"))
    if not registered:
        return shown
    from tasks.registry import look, open_registry

    registry = open_registry(usecase)
    look(registry)
    standing, versions = registry.standing(), registry.versions()
    shown |= {"staging": standing.staging, "production": standing.production}
    if versions:
        newest, tags = str(versions[0].version), versions[0].tags
        shown |= {
            "version": newest,
            "stage": standing.stage_of(newest),
            "accuracy": tags.get("accuracy"),
            "loss": _loss(tags),
        }
    return shown


def _loss(tags: Mapping[str, str]) -> str | None:
    """What a forecaster is known by."""
    return next((f"{name} {float(tags[name]):.3g}" for name in ("qlike", "mse") if name in tags), None)


def _data_state(path: str | None) -> str:
    from labline.declaration import expand
    from labline.errors import BadInput

    if path is None:
        return "built in"
    try:
        return "found" if expand(path, "data.path").exists() else "missing"
    except BadInput:
        return "LABLINE_DATA not set" if "LABLINE_DATA" in path else "variable not set"
