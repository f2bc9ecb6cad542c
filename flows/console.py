"""What a person sees in the terminal: progress while a flow runs, a table when it has ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from labline.markdown import cell
from labline.references import GateTable
from tasks.observer import Observer, StageRecord

progress_console = Console(stderr=True, highlight=False)


class ConsoleObserver(Observer):
    """Shows each stage as it runs, on standard error."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description:<10}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=progress_console,
            transient=True,
        )
        self._running: dict[str, TaskID] = {}

    def __enter__(self) -> ConsoleObserver:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def said(self, message: str) -> None:
        """Print a line."""
        self._progress.console.print(message)

    def started(self, stage: str) -> None:
        """Show a new line with an endless bar."""
        self._running[stage] = self._progress.add_task(stage, total=None, text="")

    def progressed(self, stage: str, done: float, total: float, text: str) -> None:
        """Move the bar."""
        self._progress.update(self._running[stage], completed=done, total=total, text=text)

    def finished(self, record: StageRecord) -> None:
        """Replace the bar by one line that stays."""
        self._progress.remove_task(self._running.pop(record.name))
        mark = "[cyan]cached[/]" if record.cached else "[green]done  [/]"
        self._progress.console.print(f"{mark} [bold]{record.name:<10}[/]{record.seconds:7.1f} s  {record.figure}")
        if record.reason and record.reason != "first run":
            self._progress.console.print(f"       [dim]ran again: {record.reason}[/]")

    def failed(self, stage: str) -> None:
        """Replace the bar by one line that says where it ended."""
        self._progress.remove_task(self._running.pop(stage))
        self._progress.console.print(f"[red]failed[/] [bold]{stage}[/]")

    def judged(self, table: GateTable) -> None:
        """Print the table of gates."""
        self._progress.console.print(gate_table(table))


def gate_table(table: GateTable) -> Table:
    """Every gate of a version with its figure, its limit and whether it holds."""
    against = f", against version {table.champion}" if table.champion else ""
    shown = Table(title=f"version {table.version} for {table.stage}{against}")
    for heading in ("", "gate", "figure", "limit", "note"):
        shown.add_column(heading, overflow="fold")
    for row in table.judgements:
        mark = "[green]passed[/]" if row.passed else "[red]refused[/]"
        shown.add_row(mark, row.gate, cell(row.figure), row.limit, row.note)
    return shown


def stage_table(stages: Sequence[dict[str, Any]]) -> Table:
    """The closing table: per stage seconds, cached or run, and the key figure."""
    table = Table(title="stages")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("")
    table.add_column("key figure", overflow="fold")
    for stage in stages:
        table.add_row(stage["name"], f"{stage['seconds']:.1f}", "cached" if stage["cached"] else "run", stage["figure"])
    return table


def candidate_table(candidates: Sequence[dict[str, Any]], unit: str = "images") -> Table:
    """Every compressed candidate with its figures; the chosen one of each format is marked."""
    table = Table(
        title="compression candidates (metric on validation, latency at batch 1, throughput at batch 64)",
        caption="tflite files take one sample at a time: their throughput is that of batch 1"
        if any(candidate["format"] == "tflite" for candidate in candidates)
        else None,
    )
    for heading in ("candidate", "format", "metric", "KiB", "p50 ms", "p99 ms", f"{unit}/s"):
        table.add_column(heading, justify="left" if heading in ("candidate", "format") else "right")
    for candidate in candidates:
        table.add_row(
            f"{'→' if candidate['chosen'] else ' '} {candidate['name']}",
            candidate["format"],
            f"{candidate['metric']:.4f}",
            f"{candidate['bytes'] / 1024:.0f}",
            f"{candidate['latency_ms_p50']:.3f}",
            f"{candidate['latency_ms_p99']:.3f}",
            f"{candidate['throughput']:.0f}",
            style="bold" if candidate["chosen"] else "",
        )
    return table


RIVAL_COLUMNS = {
    "model": ("model", "s"),
    "qlike": ("QLIKE", ".4f"),
    "mse_log_variance": ("MSE log", ".3f"),
    "diebold_mariano": ("DM", ".2f"),
    "diebold_mariano_p": ("DM p", ".2g"),
    "violations": ("violations", "d"),
    "kupiec_p": ("Kupiec p", ".2g"),
    "christoffersen_p": ("Christ. p", ".2g"),
}


def rival_table(rivals: Sequence[dict[str, Any]]) -> Table:
    """The network beside its baselines on the same test days, by QLIKE and by one-day value at risk."""
    days, expected = rivals[0]["days"], rivals[0]["expected_violations"]
    table = Table(
        title=f"forecasts of {days:,} test days",
        caption=f"DM (Diebold–Mariano) above 0: the network's QLIKE is lower; {expected:.1f} violations expected",
    )
    for heading, _ in RIVAL_COLUMNS.values():
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rivals:
        shown = ((row[name], style) for name, (_, style) in RIVAL_COLUMNS.items())
        table.add_row(*("–" if value is None else format(value, style) for value, style in shown))
    return table


def print_json_line(summary: dict[str, Any]) -> None:
    """One JSON object on the last line of standard output; NaN and infinity become null."""
    from labline.strict_json import nan_to_null

    sys.stdout.write(json.dumps(nan_to_null(summary), default=str, allow_nan=False) + "\n")
    sys.stdout.flush()
