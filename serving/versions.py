"""The versions that a worker answers with: loaded and warmed beside the old ones, exchanged between two requests.

The supervisor says which ones (`serving.assignment`). A request takes a `Served` once and keeps it to its end, so
that it is answered by one version however often Production moves; the last holder of a replaced one frees it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from labline.errors import LablineError
from labline.packaged_model import PackagedModel, open_model
from labline.usecase import Serving
from serving.assignment import FILE, Assigned, Assignment, Refusal, Slot, Stage, read_assignment, refusal
from serving.check import open_example
from serving.decoding import prepare

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
AGAIN_SECONDS = 5.0  # a worker without any version tries to load the assigned one again
AGAIN_BESIDE_SECONDS = 60.0  # beside one that answers: what passed the supervisor's check lacked memory, or the like
WARM_RUNS = 2  # the first of a size allocates, the second is as fast as all later ones


class NotReady(LablineError):
    """Nothing is served: no version stands in the stage, or the one that does cannot be loaded."""


@dataclass(frozen=True)
class Served:
    """A loaded version and what its declaration says of serving it; `since` is in seconds since 1970, UTC."""

    version: str
    model: PackagedModel
    folder: Path
    since: float
    title: str
    serving: Serving


@dataclass(frozen=True)
class _Standing:
    """Everything a request asks for, exchanged as one."""

    production: Served | None = None
    staging: Served | None = None
    canary: float = 0.0
    shadow: float = 0.0
    stage: Stage = "production"


class Versions:
    """The versions that stand, and a thread that watches the assignment in a folder for others.

    The constructor returns when what is assigned is loaded and warm, and never raises for a version that cannot be:
    then `production` is None, and loading is tried again. `on_change` is called by the watching thread after every
    change of what stands or was refused. `swaps` counts the versions that took over since.
    """

    def __init__(self, folder: Path, threads: int = 1, on_change: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._threads = threads
        self._on_change = on_change
        self._standing = _Standing()
        self._checked: tuple[Refusal, ...] = ()
        self._unloadable: dict[tuple[Slot, str], Refusal] = {}
        self._seen: tuple[int, int] | None = None
        self._tried = 0.0
        self.swaps = 0
        self._closing = threading.Event()
        self._look()
        self.swaps = 0
        self._thread = threading.Thread(target=self._watch, name="versions", daemon=True)
        self._thread.start()

    @property
    def production(self) -> Served | None:
        """What answers; of a service of the stage "staging" the version in Staging."""
        return self._standing.production

    @property
    def staging(self) -> Served | None:
        """What answers as the canary and as the shadow."""
        return self._standing.staging

    @property
    def canary(self) -> float:
        """The share of requests, 0..1, that the version in Staging answers."""
        return self._standing.canary

    @property
    def shadow_share(self) -> float:
        """The share of requests, 0..1, that the version in Staging answers unseen."""
        return self._standing.shadow

    @property
    def stage(self) -> Stage:
        """What the service was asked for."""
        return self._standing.stage

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """The versions that should stand and do not, by the supervisor's check or because they cannot be loaded."""
        return self._checked + tuple(self._unloadable.values())

    def choose(self, dice: float) -> tuple[Served, Literal["production", "canary"]]:
        """Who answers a request, and as what, for a number drawn evenly from [0, 1); raises NotReady for nobody."""
        standing = self._standing
        if standing.staging is not None and dice < standing.canary:
            return standing.staging, "canary"
        if standing.production is None:
            raise NotReady(f"no version is served: nothing usable is in {standing.stage.capitalize()}")
        return standing.production, self.role(standing.production)

    def role(self, served: Served) -> Literal["production", "canary"]:
        """As what a version answers: what stands in Staging is the canary, also of a service of that stage."""
        standing = self._standing
        return "canary" if standing.stage == "staging" or served is standing.staging else "production"

    def shadow(self, dice: float) -> Served | None:
        """Who answers it too, unseen; None for nobody. For another number than the one `choose` was given."""
        standing = self._standing
        return standing.staging if dice < standing.shadow else None

    def close(self) -> None:
        """Stop watching; what stands goes on standing."""
        self._closing.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            try:
                if self._look():
                    self._on_change()
            except Exception:
                logger.exception("the assignment in %s cannot be followed; what stands goes on standing", self._folder)

    def _look(self) -> bool:
        """Obey the assignment if it was replaced; True where it was."""
        seen = _identity(self._folder / FILE)
        pause = AGAIN_SECONDS if self._standing.production is None else AGAIN_BESIDE_SECONDS
        again = bool(self._unloadable) and time.monotonic() - self._tried > pause
        if seen is None or (seen == self._seen and not again):
            return False
        self._seen, self._tried = seen, time.monotonic()
        try:
            assignment = read_assignment(self._folder)
        except LablineError as error:
            logger.error("%s; what stands goes on standing", error)
            return False
        if assignment is not None:
            self._obey(assignment, again)
        return assignment is not None

    def _obey(self, assignment: Assignment, again: bool) -> None:
        """Production first, so that a slow candidate does not hold it up; `again` what could not be loaded, too."""
        before = self._standing
        self._checked = assignment.refused
        self._forget_others(assignment)
        production = self._wanted("production", assignment.production, before.production, again)
        # Who has just gone up to Production is no candidate any more.
        candidate = None if _same(before.staging, production) else before.staging
        self._stand(replace(before, production=production, staging=candidate, stage=assignment.stage))
        staging = self._wanted("staging", assignment.staging, None, again)
        if staging is None or _same(staging, production):
            self._stand(_Standing(production, stage=assignment.stage))
        else:
            self._stand(_Standing(production, staging, assignment.canary, assignment.shadow, assignment.stage))

    def _stand(self, standing: _Standing) -> None:
        new = standing.production
        self.swaps += new is not None and new is not self._standing.production
        self._standing = standing

    def _wanted(self, slot: Slot, assigned: Assigned | None, otherwise: Served | None, again: bool) -> Served | None:
        """The assigned version, loaded; where that fails, what else there is, and a refusal."""
        if assigned is None:
            return None
        folder = _resolved(self._folder, assigned)
        for loaded in (self._standing.production, self._standing.staging):
            if loaded is not None and loaded.folder == folder:
                return loaded
        known = self._unloadable.get((slot, assigned.folder))
        if known is not None and not again:
            return otherwise
        try:
            served = load(assigned.version, folder, self._threads)
        except Exception as error:  # also MemoryError, and whatever ONNX Runtime raises
            if known is None:
                told = str(error) if isinstance(error, LablineError) else f"{type(error).__name__}: {error}"
                self._unloadable[slot, assigned.folder] = refusal(slot, assigned.version, told, folder)
                logger.error("version %s cannot be loaded, %s: %s", assigned.version, _instead(otherwise), told)
            return otherwise
        self._unloadable.pop((slot, assigned.folder), None)
        logger.info("version %s stands as %s", assigned.version, slot)
        return served

    def _forget_others(self, assignment: Assignment) -> None:
        """A refusal holds for as long as the version is asked for."""
        asked = {("production", assignment.production), ("staging", assignment.staging)}
        asked_for = {(slot, assigned.folder) for slot, assigned in asked if assigned}
        self._unloadable = {key: refusal for key, refusal in self._unloadable.items() if key in asked_for}


def load(version: str, folder: Path, threads: int = 1) -> Served:
    """Load the version in a folder and let it answer its input example, alone and in the largest batch.

    Raises LablineError where it cannot be loaded or does not answer.
    """
    title, serving = _declared(folder)
    model = open_model(folder, threads)
    prepare(model)
    example = open_example(folder, model.input)
    names = tuple(spec.name for spec in model.outputs)
    for samples in (1, serving.max_batch):
        batch = np.resize(example, (samples, *example.shape[1:]))
        for _ in range(WARM_RUNS):
            model.answer(batch, names)
    return Served(version, model, folder, time.time(), title, serving)


def declared_serving(folder: Path) -> Serving:
    """The [serving] section that the version in a folder was registered with; raises LablineError for a broken one."""
    return _declared(folder)[1]


def _declared(folder: Path) -> tuple[str, Serving]:
    """Title and [serving] of the declaration that the version carries; the defaults where it has none."""
    path = folder / "extra_files" / "usecase.toml"
    try:
        declared = tomllib.loads(path.read_text(encoding="utf-8"))
        return str(declared.get("title", "")), Serving.model_validate(declared.get("serving", {}))
    except FileNotFoundError:
        return "", Serving()
    except (OSError, ValueError, ValidationError) as error:
        raise LablineError(f"{path}: the declaration cannot be read: {error}. Register the version anew.") from error


def _resolved(folder: Path, assigned: Assigned) -> Path:
    return Path(os.path.normpath(folder / assigned.folder))


def _same(one: Served | None, other: Served | None) -> bool:
    return one is not None and other is not None and one.folder == other.folder


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells one replacement of a file from the next."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_mtime_ns


def _instead(served: Served | None) -> str:
    return "nothing answers" if served is None else f"version {served.version} goes on"
