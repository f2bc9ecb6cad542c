"""`labline tune`: the tuning flow with a person watching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.run import embedded_server, watched
from tasks.environment import USECASES, load_environment

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {"pruned": "dim", "failed": "red"}


def run_tuning(usecase: str, options: dict[str, Any], json: bool) -> None:
    """Search, and close with the trials, the winner and how sure its gain is."""
    from labline.declaration import load_usecase, own_modules
    from labline.tuning.space import space_of

    load_environment()
    own_modules(usecase)
    space_of(load_usecase(usecase, USECASES, options["assignments"], options["data"]))  # refused before anything slow
    with embedded_server():
        from flows.tuning import tuning
    summary = watched(lambda: tuning(usecase, **options))
    from rich.console import Console

    from flows.console import print_json_line

    Console(stderr=json, highlight=False, soft_wrap=True).print(_told(summary))
    if json:
        print_json_line(summary)


def _told(summary: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.markup import escape

    metric, name = summary["metric"], summary["usecase"]
    colour = "green" if summary["gain_is_shown"] else "yellow"
    lines = [f"{name}: [bold {colour}]trial {summary['winner']}[/] wins: {escape(summary['verdict'])}"]
    for who, label in (("declared", "the declaration"), ("winner", "the winner")):
        low, high = summary[f"{who}_interval"]
        speed = f", {summary['latencies'][who]:.3f} ms" if summary["latencies"] else ""
        lines.append(f"  {label}: validation {metric} {summary[f'{who}_metric']:.4f} ({low:.4f} to {high:.4f}){speed}")
    lines += [f"  {key} = {value}" for key, value in summary["settings"].items()]
    lines.append(f"written: {summary['out']}; labline run {summary['out']} trains it")
    return Group(_trials(summary), *lines, *summary["links"])


def _trials(summary: dict[str, Any]) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    both = "latency" in summary["objectives"]
    table = Table(title=f"trials of study {summary['study']}")
    for heading in ("", summary["metric"].replace("_", " "), *(["ms"] if both else []), "epochs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("settings")
    for trial in summary["trials"]:
        won = trial["index"] == summary["winner"]
        shown = [f"{'→ ' if won else ''}{trial['index']}", f"{trial['metric']:.4f}"]
        shown += [f"{trial['latency']:.3f}"] if both else []
        settings = ", ".join(f"{key.partition('.')[2]} {_short(value)}" for key, value in trial["settings"].items())
        settings += f": {trial['note']}" if trial["state"] == "failed" else ""
        table.add_row(
            *shown, str(trial["epochs"]), escape(settings), style="bold" if won else STYLES.get(trial["state"], "")
        )
    return table


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
