"""The infrastructure check: does a packaged version serve in a clean process, on this machine?

It is not enough that the model answers in the process that made it: that one has the sources, the settings and the
libraries of training loaded. So the version is loaded in a process that has none of them, by the service's own code.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Nothing of PREFECT_, MLFLOW_, LABLINE_ or PYTHON: a version must not need the settings of the flow that made it.
KEPT = ("PATH", "HOME", "LANG", "TMPDIR")
KEPT_PREFIXES = ("OMP_", "ORT_")  # how many threads, and whether they spin while they wait


@dataclass(frozen=True)
class InfrastructureReport:
    """Whether a version serves, and what it answered to its input example.

    `problems` is empty exactly where `ok`; `answers` are float32 N x K, probabilities or forecasts, 0 x 0 where there
    was none, NaN where one was not finite; latencies are of single requests on one thread, in milliseconds, NaN where
    not measured.
    """

    ok: bool
    problems: tuple[str, ...]
    answers: npt.NDArray[np.float32]
    latency_ms_p50: float
    latency_ms_p99: float


def check_infrastructure(folder: Path, timeout_seconds: float = 120) -> InfrastructureReport:
    """Load the version in `folder` in a clean process, exactly as the service does, and let it answer its example.

    Runs `python -m serving.check`, isolated (-I) from the working directory and from the user's Python settings.
    A version that cannot be served, and a process that dies, hangs or says nothing, is a report that is not ok.
    """
    command = [sys.executable, "-I", "-m", "serving.check", str(folder.resolve()), "--json"]
    try:
        ended = subprocess.run(
            command,
            env={name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired:
        return _failed(f"{folder}: no answer within {timeout_seconds:g} s; the process was ended")
    except OSError as error:
        return _failed(f"{folder}: the checking process could not be started: {error}")
    said = _last_object(ended.stdout)
    if said is None or ended.returncode not in (0, 1, 2):
        return _failed(f"{folder}: the checking process {_ending(ended)}")
    return _report(said)


def _last_object(output: str) -> dict[str, Any] | None:
    """The JSON object on the last line, None where there is none."""
    try:
        said = json.loads(output.strip().rpartition("\n")[2])
    except ValueError:
        return None
    return said if isinstance(said, dict) and "ok" in said else None


def _report(said: dict[str, Any]) -> InfrastructureReport:
    answers = np.array(said["answers"], dtype=np.float32)  # null becomes NaN
    return InfrastructureReport(
        ok=said["ok"],
        problems=tuple(said["problems"]),
        answers=answers if answers.ndim == 2 else _no_answer(),
        latency_ms_p50=_number(said["latency_ms_p50"]),
        latency_ms_p99=_number(said["latency_ms_p99"]),
    )


def _failed(problem: str) -> InfrastructureReport:
    return InfrastructureReport(False, (problem,), _no_answer(), math.nan, math.nan)


def _no_answer() -> npt.NDArray[np.float32]:
    return np.empty((0, 0), dtype=np.float32)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _ending(ended: subprocess.CompletedProcess[str]) -> str:
    """How a process ended that did not say why, with the last thing it wrote."""
    if ended.returncode < 0:
        how = f"was ended by signal {_signal_name(-ended.returncode)} (SIGKILL is often the lack of memory)"
    else:
        how = f"ended with code {ended.returncode} and without a result"
    last_words = (ended.stderr.strip() or ended.stdout.strip()).rpartition("\n")[2]
    return f"{how}: {last_words}" if last_words else how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
