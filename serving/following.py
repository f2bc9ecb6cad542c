"""Obeying the registry: what stands in Production is brought here, checked, and assigned to the workers.

Whatever goes wrong, the version before goes on. The registry is down: everything goes on. A version cannot be
brought: it is tried again, ever more seldom. A version does not answer its check: it is refused until the stage
names another one, or the same one registered anew.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from labline.errors import BadInput, LablineError
from serving.assignment import Assigned, Assignment, Refusal, Slot, Stage, read_assignment, refusal, write_assignment
from serving.downloads import VERSIONS, Unfit, bring, clear_away, examine
from serving.registry import Registered, Registry
from serving.versions import declared_serving

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
EMPTY_LOOKS = 3  # whoever moves an alias by deleting it and setting it again does not stop the service
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds until a version that cannot be brought is tried again


@dataclass(frozen=True)
class Wanted:
    """What a service is asked to serve; `version` only with the stage "pinned".

    `canary` and `shadow` are shares 0..1, None for what the version in Staging declares.
    """

    usecase: str
    stage: Stage = "production"
    version: str | None = None
    canary: float | None = None
    shadow: float | None = None


class Follower:
    """Keeps the assignment in `instance` what the registry says; `folder` is the use case's, with its versions."""

    def __init__(self, wanted: Wanted, folder: Path, instance: Path, poll_seconds: float = POLL_SECONDS) -> None:
        self._wanted = wanted
        self._folder = folder
        self._instance = instance
        self._poll_seconds = poll_seconds
        self._registry = Registry(wanted.usecase)
        self._fit: set[Registered] = set()
        self._refused: dict[Slot, tuple[Registered, Refusal]] = {}
        self._again: dict[Slot, tuple[float, float]] = {}  # when a version may be tried again, and the pause after it
        self._empty: dict[Slot, int] = {}
        self._told = ""
        self._ending = threading.Event()
        self.assignment = Assignment(wanted.stage)

    def begin(self) -> Assignment:
        """Assign what stands now, or where the registry cannot be asked what stood at the end of the last service.

        Raises BadInput where the stage is empty, and LablineError where its version cannot be served and no other
        one is there to go on with.
        """
        self.assignment = self._left_behind() or self.assignment
        problem = self.look()
        if self.assignment.production is not None:
            self._tell(problem)
            self._write(self.assignment)
            return self.assignment
        if problem is not None:
            raise problem
        if "production" in self._refused:
            refused = self._refused["production"][1]
            raise LablineError(f"version {refused.version} of {self._wanted.usecase} is not served: {refused.problem}")
        raise BadInput(self._nothing())

    def follow(self) -> None:
        """Look again and again until `end`; for a thread of its own. A version that was named is never asked after."""
        if self._wanted.stage == "pinned":
            return
        while not self._ending.wait(self._poll_seconds):
            self._tell(self.look())

    def end(self) -> None:
        """Let `follow` come to its end."""
        self._ending.set()

    def look(self) -> LablineError | None:
        """Ask once and assign what is new; returns why nothing was learned, where that is so."""
        try:
            self._place("production", self._named("production"))
            if self._wanted.stage == "production":
                self._place("staging", self._named("staging"))
        except LablineError as error:
            return error
        except Exception as error:  # a full disk, a bug: the service outlives it
            return LablineError(f"the registry cannot be followed ({type(error).__name__}: {error})")
        return None

    def _named(self, slot: Slot) -> Registered | None:
        if self._wanted.stage == "pinned":
            return self._registry.version(str(self._wanted.version))
        return self._registry.named("staging" if self._wanted.stage == "staging" else slot)

    def _place(self, slot: Slot, registered: Registered | None) -> None:
        if registered is None:
            self._empty[slot] = self._empty.get(slot, 0) + 1
            if self._empty[slot] >= EMPTY_LOOKS or slot == "staging":
                self._settle(slot, None)
            return
        self._empty[slot] = 0
        refused, _ = self._refused.get(slot, (None, None))
        due, _ = self._again.get(slot, (0.0, 0.0))
        if refused != registered:
            self._again.pop(slot, None)
        elif time.monotonic() < due:
            return
        if self._folder_of(registered) == self._assigned_folder(slot) and registered in self._fit:
            self._settle(slot, registered)
        else:
            self._take(slot, registered)

    def _take(self, slot: Slot, registered: Registered) -> None:
        """Bring and check a version, then assign it; or refuse it."""
        folder = self._folder / VERSIONS
        try:
            folder = bring(self._wanted.usecase, registered, self._folder)
            if registered not in self._fit:
                _check(folder)
            self._fit.add(registered)
        except LablineError as error:
            self._refuse(slot, registered, error, folder)
        else:
            self._settle(slot, registered)

    def _settle(self, slot: Slot, registered: Registered | None) -> None:
        self._refused.pop(slot, None)
        self._again.pop(slot, None)
        assigned = None if registered is None else Assigned(registered.version, self._folder_of(registered))
        changed = assigned != getattr(self.assignment, slot)
        assignment = replace(self.assignment, refused=self._refusals())
        if slot == "production":
            assignment = replace(assignment, production=assigned)
        else:
            canary, shadow = self._shares(assigned)
            assignment = replace(assignment, staging=assigned, canary=canary, shadow=shadow)
        if assignment != self.assignment:
            self._write(assignment)
        if changed:
            logger.info("%s: %s is assigned as %s", self._wanted.usecase, _spelled(assigned), slot)
            clear_away(self._folder)

    def _refuse(self, slot: Slot, registered: Registered, error: LablineError, folder: Path) -> None:
        unfit = isinstance(error, Unfit)
        # What a client may read: MLflow's errors name folders and addresses.
        problem = str(error) if unfit else "it cannot be brought here or checked; the service's log says why"
        told = refusal(slot, registered.version, problem, folder)
        if self._refused.get(slot) != (registered, told):
            usecase, version, instead = self._wanted.usecase, registered.version, self._instead(slot)
            logger.error("%s: version %s is not served, %s: %s", usecase, version, instead, error)
        _, pause = self._again.get(slot, (0.0, FIRST_PAUSE))
        due = math.inf if unfit else time.monotonic() + pause
        self._again[slot] = (due, min(2 * pause, LONGEST_PAUSE))
        self._refused[slot] = (registered, told)
        kept = self.assignment if slot == "production" else replace(self.assignment, staging=None)
        if (assignment := replace(kept, refused=self._refusals())) != self.assignment:
            self._write(assignment)

    def _write(self, assignment: Assignment) -> None:
        write_assignment(self._instance, assignment)
        self.assignment = assignment

    def _refusals(self) -> tuple[Refusal, ...]:
        return tuple(told for _, told in self._refused.values())

    def _shares(self, staging: Assigned | None) -> tuple[float, float]:
        """Canary and shadow: as asked for, else as the version in Staging declares."""
        if staging is None:
            return 0.0, 0.0
        declared, wanted = declared_serving(self._instance / staging.folder), self._wanted
        canary = declared.canary if wanted.canary is None else wanted.canary
        return canary, declared.shadow if wanted.shadow is None else wanted.shadow

    def _folder_of(self, registered: Registered) -> str:
        return f"../{VERSIONS}/{registered.version}-{registered.digest}"

    def _assigned_folder(self, slot: Slot) -> str | None:
        assigned: Assigned | None = getattr(self.assignment, slot)
        return assigned.folder if assigned else None

    def _left_behind(self) -> Assignment | None:
        """What the last service here was assigned, where it was asked for the same and its files are there."""
        try:
            left = read_assignment(self._instance)
        except LablineError as error:
            logger.warning(error)
            return None
        if left is None or left.stage != self._wanted.stage or left.production is None:
            return None
        if self._wanted.version not in (None, left.production.version):
            return None
        return left if all((self._instance / folder).is_dir() for folder in left.folders()) else None

    def _tell(self, error: LablineError | None) -> None:
        """Say what is wrong once, and once that it is over."""
        problem = str(error or "")
        if problem and problem != self._told:
            logger.warning("%s; what is served goes on", problem)
        elif self._told and not problem:
            logger.warning("the registry answers again")
        self._told = problem

    def _instead(self, slot: Slot) -> str:
        standing = self.assignment.production if slot == "production" else None
        return f"{_spelled(standing)} goes on" if standing else "nothing takes its place"

    def _nothing(self) -> str:
        usecase, stage = self._wanted.usecase, self._wanted.stage
        return (
            f"nothing of {usecase} is in {stage.capitalize()}: labline promote {usecase} moves a version up; "
            f"labline serve {usecase} --stage staging or --version N serves another"
        )


def _check(folder: Path) -> None:
    """Raises Unfit for a version that does not serve, and LablineError where that cannot be told."""
    examine(folder)
    try:
        declared_serving(folder)
    except LablineError as error:
        raise Unfit(str(error)) from error


def _spelled(assigned: Assigned | None) -> str:
    return "nothing" if assigned is None else f"version {assigned.version}"
