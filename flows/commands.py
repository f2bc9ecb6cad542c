"""Labline's own commands, run as a person would type them: each in a process of its own."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from flows.console import progress_console
from flows.processes import stop
from labline.errors import BadInput, LablineError, RefusedByGate

ERRORS: dict[int, type[LablineError]] = {error.exit_code: error for error in (BadInput, RefusedByGate)}


def labline(words: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Show a command, run it with `--json`, and return its summary; its progress goes to standard error.

    Raises what the command raised, in its words. Whatever interrupts the waiting ends the command too.
    """
    progress_console.print(f"[dim]$ labline {shlex.join(words)}[/]", soft_wrap=True)
    command = [sys.executable, "-P", "-c", "from flows.cli import main; main()", *words, "--json"]
    running = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, start_new_session=True
    )
    try:
        out, _ = running.communicate()
    finally:
        stop({words[0]: running})
    summary = _last_line(out)
    if running.returncode:
        told = summary.get("error", f"ended with code {running.returncode}")
        raise ERRORS.get(running.returncode, LablineError)(f"labline {words[0]}: {told}")
    return summary


def _last_line(out: bytes) -> dict[str, Any]:
    try:
        summary = json.loads(out.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}
