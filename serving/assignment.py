"""What the supervisor tells its workers to serve: one small JSON file, replaced in one step.

{"stage": "production", "production": {"version": "3", "folder": "../versions/3-5f2a90c1"},
 "staging": null, "canary": 0.0, "shadow": 0.0, "refused": []}
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from labline.errors import LablineError

FILE = "assignment.json"
Stage = Literal["production", "staging", "pinned"]
Slot = Literal["production", "staging"]


@dataclass(frozen=True)
class Assigned:
    """A version to be served: its number, and its complete folder, relative to the one that the file lies in."""

    version: str
    folder: str


@dataclass(frozen=True)
class Refusal:
    """A version that was to be served and is not, and why; `slot` is where it would have stood.

    Clients may read it: `problem` names no folder of this machine.
    """

    slot: Slot
    version: str
    problem: str


@dataclass(frozen=True)
class Assignment:
    """Which versions are served. `stage` is what the service was asked for.

    `production` answers: with stage "staging" the version in Staging, with "pinned" the one that was named.
    `staging` answers the share `canary` (0..1) of requests in its place, and unseen the share `shadow` beside it.
    """

    stage: Stage
    production: Assigned | None = None
    staging: Assigned | None = None
    canary: float = 0.0
    shadow: float = 0.0
    refused: tuple[Refusal, ...] = ()

    def folders(self) -> set[str]:
        """The folders of its versions."""
        return {assigned.folder for assigned in (self.production, self.staging) if assigned}


def read_assignment(folder: Path) -> Assignment | None:
    """The assignment in a folder, None where there is none yet; raises LablineError for a file of another shape."""
    path = folder / FILE
    try:
        written = json.loads(path.read_bytes())
        return Assignment(
            stage=written["stage"],
            production=_assigned(written["production"]),
            staging=_assigned(written["staging"]),
            canary=float(written["canary"]),
            shadow=float(written["shadow"]),
            refused=tuple(Refusal(**refusal) for refusal in written["refused"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LablineError(
            f"{path} is not the assignment that the supervisor writes ({type(error).__name__}: {error}): "
            "delete it and start labline serve again"
        ) from error


def write_assignment(folder: Path, assignment: Assignment) -> None:
    """Replace the assignment: whoever reads it meets the old one or the new one, also after a power failure."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{FILE}.partial"
    with partial.open("w") as file:
        json.dump(asdict(assignment), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / FILE)


def refusal(slot: Slot, version: str, problem: str, folder: Path) -> Refusal:
    """A refusal for a problem in words that name files in the version's folder."""
    return Refusal(slot, version, problem.replace(f"{folder}{os.sep}", "").replace(str(folder), "its folder"))


def _assigned(written: dict[str, str] | None) -> Assigned | None:
    return None if written is None else Assigned(**written)
