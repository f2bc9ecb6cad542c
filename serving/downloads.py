"""Versions on this machine's disk: brought once, complete or not at all, checked in a clean process, and cleared away.

    <LABLINE_STORE>/serving/<usecase>/versions/3-5f2a90c1/     number and digest of the registration
    <LABLINE_STORE>/serving/<usecase>/8080/assignment.json     of the service on that port

Services of one use case on several ports share the versions; whoever changes the folder holds its lock.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from labline.errors import LablineError
from serving.assignment import read_assignment
from serving.fetching import fetch
from serving.registry import Registered

VERSIONS = "versions"
KEPT = 3  # newest ones that no service is assigned: a rollback finds its version here
INCOMING = ".incoming-"
CHECK_SECONDS = 300
# Nothing of MLFLOW_, LABLINE_ or PYTHON: a version must answer without the registry, as it will have to.
PASSED = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
PASSED_PREFIXES = ("OMP_", "ORT_")


class Unfit(LablineError):
    """The version was checked and cannot be served: it stays so until it is registered anew."""


def bring(usecase: str, registered: Registered, folder: Path) -> Path:
    """The folder of a version within the use case's `folder`, downloaded unless it is there; the newest one now.

    Raises LablineError as `serving.fetching.fetch` does, and for a disk that cannot take it.
    """
    destination = folder / VERSIONS / f"{registered.version}-{registered.digest}"
    try:
        with changing(folder):
            if not destination.is_dir():
                with tempfile.TemporaryDirectory(prefix=INCOMING, dir=folder / VERSIONS) as scratch:
                    fetched = fetch(f"models:/{usecase}/{registered.version}", Path(scratch) / "version")
                    fetched.replace(destination)
            os.utime(destination)
    except OSError as error:
        raise LablineError(f"version {registered.version} cannot be stored ({error}): free space") from error
    return destination


def changing(folder: Path) -> FileLock:
    """The lock on a use case's versions; it dies with its process."""
    (folder / VERSIONS).mkdir(parents=True, exist_ok=True)
    return FileLock(folder / VERSIONS / ".lock")


def clear_away(folder: Path) -> None:
    """Delete versions that no service here is assigned, but for the newest ones, and what broken downloads left."""
    with changing(folder):
        present = [path for path in (folder / VERSIONS).iterdir() if path.is_dir()]
        broken = [path for path in present if path.name.startswith(INCOMING)]
        assigned = _assigned(folder)
        spare = sorted((path for path in present if path not in {*broken, *assigned}), key=lambda p: p.stat().st_mtime)
        for path in [*broken, *spare[:-KEPT]]:
            shutil.rmtree(path, ignore_errors=True)


def examine(folder: Path) -> None:
    """Let a version answer its input example in a process that has nothing of this one's.

    Raises Unfit with the problems that were found, and LablineError where the process came to no result: it was
    ended by a signal, or hung.
    """
    command = [sys.executable, "-I", "-m", "serving.check", str(folder), "--json"]
    passed = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith(PASSED_PREFIXES)}
    try:
        ended = subprocess.run(
            command, env=passed, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CHECK_SECONDS
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise LablineError(f"{folder} could not be checked: {error}") from error
    seen = _last_object(ended.stdout)
    if seen is None:
        told = ended.stderr.strip().rpartition("\n")[2]
        raise LablineError(f"{folder} could not be checked: the process ended with code {ended.returncode}: {told}")
    if not seen["ok"]:
        raise Unfit("; ".join(seen["problems"]))


def _assigned(folder: Path) -> set[Path]:
    """The folders that services of this use case stand on, running or to be started again."""
    found: set[Path] = set()
    for path in folder.glob("*/assignment.json"):
        assignment = read_assignment(path.parent)
        found |= {Path(os.path.normpath(path.parent / name)) for name in (assignment.folders() if assignment else ())}
    return found


def _last_object(output: str) -> dict[str, Any] | None:
    """The JSON object on the last line, None where there is none."""
    try:
        said = json.loads(output.strip().rpartition("\n")[2])
    except ValueError:
        return None
    return said if isinstance(said, dict) and {"ok", "problems"} <= said.keys() else None
