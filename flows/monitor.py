"""`labline monitor`: the monitoring flow with a person watching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.moments import moment
from flows.run import embedded_server, watched
from tasks.environment import load_environment

if TYPE_CHECKING:
    from rich.console import RenderableType

COLOURS = {"healthy": "green", "watch": "yellow", "retrain": "red", "rollback": "red"}
SHOWN = ("predictions", "labelled", "reference", "measured", "estimated", "confidence")


def run_monitoring(usecase: str, since: str | None, window: int | None, page: bool, json: bool) -> None:
    """Give a verdict on the version in Production, and close with its reasons."""
    load_environment()
    first = moment("--since", since) if since else None
    with embedded_server():
        from flows.monitoring import monitoring
    summary = watched(lambda: monitoring(usecase, first, window, page))
    from rich.console import Console

    from flows.console import print_json_line

    Console(stderr=json, highlight=False, soft_wrap=True).print(_told(summary))
    if json:
        print_json_line(summary)


def _told(summary: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.markup import escape

    from labline.markdown import cell

    kind, figures = summary["verdict"], summary["figures"]
    lines = [f"{summary['usecase']} version {summary['version']}: [bold {COLOURS[kind]}]{kind}[/]"]
    lines += [f"  - {escape(reason)}" for reason in summary["reasons"]]
    seen = [f"{name} {cell(figures[name])}" for name in SHOWN if figures.get(name) is not None]
    lines.append("  " + ", ".join(seen))
    if summary["run_id"]:
        lines.append(f"  MLflow run {summary['run_id']}")
    return Group(*lines)
