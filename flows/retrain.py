"""`labline retrain`: the retraining flow with a person watching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.moments import moment
from flows.run import embedded_server, watched
from tasks.environment import load_environment

if TYPE_CHECKING:
    from rich.console import RenderableType

COLOURS = {"promoted": "green", "nothing": "yellow", "held": "yellow", "exhausted": "red"}


def run_retraining(usecase: str, reason: str, since: str | None, until: str | None, force: bool, json: bool) -> None:
    """Retrain the version in Production, and close with how the challenger did."""
    load_environment()
    first, last = (moment(flag, text) if text else None for flag, text in (("--since", since), ("--until", until)))
    with embedded_server():
        from flows.retraining import retraining
    summary = watched(lambda: retraining(usecase, reason, first, last, force=force))
    from rich.console import Console

    from flows.console import print_json_line

    Console(stderr=json, highlight=False, soft_wrap=True).print(_told(summary))
    if json:
        print_json_line(summary)


def _told(summary: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    kind = summary["outcome"]
    line = f"{summary['usecase']}: [bold {COLOURS[kind]}]{kind}[/]: {escape(summary['note'])}"
    if not summary.get("parts"):
        return Group(line)
    table = Table(title=f"version {summary['version']} against version {summary['champion']}")
    for heading in ("part", "images", "champion", "challenger", "difference"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for part in summary["parts"]:
        shown = [f"{part['champion']:.4f}", f"{part['challenger']:.4f}", f"{part['difference']:+.4f}"]
        table.add_row(part["part"], f"{part['support']:,}", *shown)
    return Group(table, line)
