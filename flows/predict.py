"""`labline predict`: the batch-inference flow with a person watching."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.run import embedded_server, watched
from labline.errors import BadInput
from tasks.environment import load_environment


def run_predict(usecase: str, source: Path, options: dict[str, Any], json: bool) -> None:
    """Answer everything in `source`, and close with what came of it; `options` are those of the flow."""
    load_environment()
    if not source.exists():
        raise BadInput(f"INPUT: there is nothing at {source.absolute()}")
    with embedded_server():
        from flows.batch_inference import batch_inference
    # Where this process is, not where Prefect's is.
    parameters = {**options, "source": str(source.absolute()), "out": str(options["out"].absolute())}
    _close(watched(lambda: batch_inference(usecase, **parameters)), json)


def _close(summary: dict[str, Any], json: bool) -> None:
    from rich.console import Console

    from flows.console import print_json_line

    console = Console(stderr=json, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{summary['out']}: {summary['answered']:,} answers of {summary['usecase']} version {summary['version']}"
    )
    if summary["quarantined"]:
        console.print(f"{summary['quarantine']}: {summary['quarantined']:,} that have none, with the reason")
    if json:
        print_json_line(summary)
