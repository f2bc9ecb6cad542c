"""Seconds that `labline run surface` takes beyond the same chain in plain Python: Prefect, MLflow, Great Expectations.

The plain side (`benchmarks/plain_chain.py`) calls the same functions of labline from rendering to evaluating, in one
process, and keeps nothing but what the next step needs: no cache, no evidence, no plot, no expectation, no registry.
Both sides count from the start of the process to its end. Cold: an empty storage root and no server, so that Prefect's
is started, and both databases are made, meanwhile. Warm: the servers of `labline ui` are up. The declaration is the
shipped one with fewer images and epochs, so that the sides' common work does not drown the difference; what is beyond
it hardly depends on either.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.turns import own_side, summary, take_turns, timed_process
from flows.processes import start, stop, wait_until_ready

MINUTES = 5.0
ROUNDS = 3
SETTINGS = (
    "training.epochs=2",
    "data.options.samples=1200",
    'compression.passes=["int8-static"]',
    'export.formats=["onnx"]',
    "gates={}",
)
PORTS = (18_317, 18_318)  # of the MLflow and the Prefect server

log = logging.getLogger(__name__)


def measure(settings: tuple[str, ...] = SETTINGS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Three sides; `ratio` is the cold run's seconds over the plain chain's.

    Raises LablineError where a side fails.
    """
    with tempfile.TemporaryDirectory(prefix="labline-overhead-") as directory:
        scratch = Path(directory)
        with servers(scratch / "warm") as addresses:
            # The first run of a server's life makes the experiment and so on; it is not what is asked for.
            run_labline(scratch / "warm", settings, addresses)
            turns = take_turns(
                {
                    "warm": lambda: run_labline(scratch / "warm", settings, addresses),
                    "plain": lambda: timed_process(own_side("plain_chain", *settings)),
                    "cold": lambda: run_labline(Path(tempfile.mkdtemp(dir=scratch)), settings),
                },
                rounds,
            )
    plain, cold, warm = (summary(turns[name]) for name in ("plain", "cold", "warm"))
    return {
        "name": "overhead",
        "ratio": cold["seconds"] / plain["seconds"],
        "overhead": {
            "cold_seconds": cold["seconds"] - plain["seconds"],
            "warm_seconds": warm["seconds"] - plain["seconds"],
            "cold_cpu_seconds": cold["cpu_seconds"] - plain["cpu_seconds"],
            "warm_cpu_seconds": warm["cpu_seconds"] - plain["cpu_seconds"],
        },
        "ours": {"cold": cold, "warm": warm},
        "theirs": plain,
        "settings": {"assignments": list(settings), "rounds": rounds},
    }


def table(result: dict[str, Any]) -> str:
    """The result for a person to read."""
    sides = {
        "labline run, cold": result["ours"]["cold"],
        "labline run, servers up": result["ours"]["warm"],
        "plain Python": result["theirs"],
    }
    lines = [f"{'side':24} seconds  lowest highest   cpu s  beyond plain"]
    for name, side in sides.items():
        beyond = side["seconds"] - result["theirs"]["seconds"]
        lines.append(
            f"{name:24} {side['seconds']:7.1f} {side['lowest']:7.1f} {side['highest']:7.1f} {side['cpu_seconds']:7.1f}"
            f"  {beyond:12.1f}"
        )
    overhead = result["overhead"]
    lines.append(
        f"stage overhead: {overhead['cold_seconds']:.1f} s cold, {overhead['warm_seconds']:.1f} s with servers up "
        f"({', '.join(result['settings']['assignments'])})"
    )
    return "\n".join(lines)


def run_labline(store: Path, settings: tuple[str, ...], addresses: dict[str, str] | None = None) -> dict[str, Any]:
    """One `labline run surface` in a storage root; without addresses it starts what it needs by itself."""
    arguments = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-c", "from flows.cli import main; main()", "run", "surface", "--fresh", "--json"]
    turn = timed_process([*command, *arguments], _environment(store, addresses))
    return {name: turn[name] for name in ("seconds", "cpu_seconds")}


def _environment(store: Path, addresses: dict[str, str] | None) -> dict[str, str]:
    return {"LABLINE_STORE": str(store), "LABLINE_DATA": os.environ.get("LABLINE_DATA", ""), **(addresses or {})}


@contextlib.contextmanager
def servers(store: Path) -> Iterator[dict[str, str]]:
    """`labline ui` on a storage root, and the variables with which a command uses its servers."""
    mlflow, prefect = (f"http://127.0.0.1:{port}" for port in PORTS)
    options = [f"--mlflow-port={PORTS[0]}", f"--prefect-port={PORTS[1]}"]
    command = [sys.executable, "-c", "from flows.cli import main; main()", "ui", *options]
    output = store.with_name("servers.log")
    process = start(command, output, {**os.environ, **_environment(store, None)})
    try:
        for page in (f"{mlflow}/health", f"{prefect}/api/health"):
            wait_until_ready("labline ui", page, process, str(output))
        log.info("the servers are up")
        yield {"MLFLOW_TRACKING_URI": mlflow, "MLFLOW_REGISTRY_URI": mlflow, "PREFECT_API_URL": f"{prefect}/api"}
    finally:
        stop({"labline ui": process})
