"""Sides that take turns, and what their turns come to."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from labline.errors import LablineError

log = logging.getLogger(__name__)

Turn = dict[str, Any]


def take_turns(sides: Mapping[str, Callable[[], Turn]], rounds: int) -> dict[str, list[Turn]]:
    """Every side once a round, in an order that alternates; a turn has `seconds`, and whatever else was seen."""
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            turn = sides[name]()
            turns[name].append(turn)
            log.info("round %d of %d, %s: %.2f s", number + 1, rounds, name, turn["seconds"])
    return turns


def summary(turns: Sequence[Turn]) -> dict[str, Any]:
    """Medians of the numbers, `lowest` and `highest` of the seconds; of anything else, what the first turn saw."""
    seconds = [turn["seconds"] for turn in turns]
    figures = {
        name: median(turn[name] for turn in turns) if isinstance(value, int | float) else value
        for name, value in turns[0].items()
    }
    return figures | {"lowest": min(seconds), "highest": max(seconds), "rounds": len(turns)}


def timed(work: Callable[[], Any]) -> Turn:
    """Wall and processor seconds of a call in this process and in those it starts and waits for."""
    used, begun = _processor_seconds(), time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - begun, "cpu_seconds": _processor_seconds() - used}


def timed_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Turn:
    """Wall and processor seconds of a process from its start to its end; `out` is the last line it printed.

    Raises LablineError where it fails.
    """
    used, begun = _processor_seconds(), time.perf_counter()
    ended = subprocess.run(
        command, env=None if environment is None else {**os.environ, **environment}, capture_output=True, text=True
    )
    seconds = time.perf_counter() - begun
    if ended.returncode:
        last = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-3:]
        raise LablineError(f"{' '.join(command)} failed with {ended.returncode}: {' '.join(last)}")
    lines = ended.stdout.strip().splitlines()
    return {"seconds": seconds, "cpu_seconds": _processor_seconds() - used, "out": lines[-1] if lines else ""}


def answered(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Turn:
    """What a process prints on its last line, as JSON; for sides that time themselves."""
    found: Turn = json.loads(timed_process(command, environment)["out"])
    return found


def own_side(module: str, *arguments: str) -> list[str]:
    """The command of a side in an interpreter like this one."""
    return [sys.executable, "-m", f"benchmarks.{module}", *arguments]


def _processor_seconds() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
