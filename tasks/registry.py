"""The MLflow registry's stages and aliases, moved in one breath, every move in the ledger.

The only module that knows how MLflow says where a version stands. A move is written in this order, every step of
it harmless to repeat: the intent in the ledger, tags, stages, aliases, done in the ledger. A process that dies in
between leaves an intent, and whoever looks next finishes it. What a person moves by hand in MLflow's pages is
obeyed: stages are brought in line with aliases or the other way round, and the ledger says that it was seen.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args
from uuid import uuid4

from labline.errors import BadInput, nearest
from labline.ledger import Entry, Ledger, now, standing, unfinished
from labline.standing import ALIASES, Seen, Stage, Standing, differences, obeyed
from labline.usecase import NAME
from tasks.environment import load_environment, storage_root
from tasks.turn import hold

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

BY_HAND = "by hand"
SOMEBODY = "somebody in MLflow"  # it does not say who
STAGE_TAG = "labline.stage"  # MLflow's newer pages show tags and aliases, but no stages


@dataclass
class Registry:
    """One registered model: where its versions stand, and how that came about."""

    usecase: str
    client: MlflowClient
    ledger: Ledger

    def standing(self) -> Standing:
        """Where the versions stand by the ledger; call `reconcile` first to have seen what happened outside."""
        return standing(self.ledger.entries(self.usecase))

    def reconcile(self) -> list[str]:
        """Finish what was interrupted and obey what was done by hand; returns in plain words what was mended.

        The caller holds `alone`.
        """
        entries = self._entries_of_this_model()
        pending = unfinished(entries)
        if pending is None:
            return self._obey(standing(entries))
        if _overtaken(pending, self._seen()):
            self.ledger.append(self.usecase, replace(pending, kind="abandoned", at=now()))
            mended = f"{pending.action} of version {pending.version} was interrupted, and then overtaken by hand"
            return [mended, *self._obey(pending.before)]
        mended = f"{pending.action} of version {pending.version} was interrupted and is finished now"
        return [mended, *self._obey(self._finish(pending).after)]

    def disagreements(self) -> list[str]:
        """What `reconcile` would mend, without touching anything."""
        entries, seen = self.ledger.entries(self.usecase), self._seen()
        pending = unfinished(entries)
        interrupted = [f"{pending.action} of version {pending.version} was interrupted"] if pending else []
        wanted = pending.after if pending else standing(entries)
        return interrupted + differences(wanted, seen)

    def move(
        self,
        action: str,
        version: str,
        after: Standing,
        why: str,
        who: str | None = None,
        evidence: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Entry:
        """Bring the registry from where it stands to `after`; the caller holds `alone` and has reconciled."""
        before = self.standing()
        intent = Entry("intent", uuid4().hex, action, version, now(), who or person(), why, before, after, evidence)
        self.ledger.append(self.usecase, intent)
        for name, value in (tags or {}).items():
            self.client.set_model_version_tag(self.usecase, version, name, value)
        return self._finish(intent)

    def note(self, entry: Entry) -> None:
        """Write down what changes nothing: a refusal, a question, a rejection."""
        self.ledger.append(self.usecase, entry)

    def versions(self) -> list[ModelVersion]:
        """All versions that exist, newest first."""
        found = self.client.search_model_versions(f"name = '{self.usecase}'", max_results=10_000)
        return sorted(found, key=lambda version: int(version.version), reverse=True)

    def version(self, number: str) -> ModelVersion:
        """One version; raises BadInput naming those that exist."""
        versions = {str(version.version): version for version in self.versions()}
        if number not in versions:
            hint = nearest(number, versions) if versions else f"nothing is registered yet: labline run {self.usecase}"
            raise BadInput(f"{self.usecase} has no version {number}; {hint}")
        return versions[number]

    def _entries_of_this_model(self) -> list[Entry]:
        """The ledger's entries; where the model was deleted and registered anew since, it stands nowhere again."""
        entries = self.ledger.entries(self.usecase)
        if entries and self.versions():
            born = int(self.client.get_registered_model(self.usecase).creation_timestamp or 0) / 1000
            if entries[-1].at < born:
                why = "the model was deleted and registered anew"
                before = standing(entries)
                names = ", ".join(sorted(before.named, key=int))
                anew = Entry("observed", uuid4().hex, BY_HAND, names, born, SOMEBODY, why, before, Standing())
                self.ledger.append(self.usecase, anew)
                return [anew]
        return entries

    def _obey(self, expected: Standing) -> list[str]:
        seen = self._seen()
        wanted = obeyed(expected, seen)
        mended = differences(wanted, seen)
        if wanted != expected:
            self.ledger.append(self.usecase, self._observation(expected, wanted, seen))
        if mended:
            self._show(wanted)
        return mended

    def _observation(self, expected: Standing, wanted: Standing, seen: Seen) -> Entry:
        known = sorted(wanted.named | expected.named, key=int)
        moved = [version for version in known if wanted.stage_of(version) != expected.stage_of(version)]
        entries = self.ledger.entries(self.usecase)
        last = max([entry.at for entry in entries[-1:]] + [seen.registered.get(version, 0) / 1000 for version in moved])
        # MLflow dates a change of stage, but not one of an alias: where it says nothing new, it is dated now.
        changed = max((seen.updated.get(version, 0) / 1000 for version in moved), default=0.0)
        why = "seen in MLflow: " + "; ".join(differences(expected, seen))
        at = changed if changed > last else now()
        names = ", ".join(moved)
        return Entry("observed", uuid4().hex, BY_HAND, names, at, SOMEBODY, why, expected, wanted)

    def _show(self, wanted: Standing) -> None:
        """Tags, then stages, then aliases; only what differs is written."""
        seen = self._seen()
        tags = {str(version.version): version.tags.get(STAGE_TAG, "None") for version in self.versions()}
        for version in seen.stages:
            if tags[version] != wanted.stage_of(version):
                self.client.set_model_version_tag(self.usecase, version, STAGE_TAG, wanted.stage_of(version))
        if seen.has_stages:
            self._show_stages(wanted, seen)
        aliases = wanted.aliases()
        for alias in ("previous", "staging", "production"):
            if alias not in aliases and alias in seen.aliases:
                self.client.delete_registered_model_alias(self.usecase, alias)
            elif alias in aliases and seen.aliases.get(alias) != aliases[alias]:
                self.client.set_registered_model_alias(self.usecase, alias, aliases[alias])

    def _show_stages(self, wanted: Standing, seen: Seen) -> None:
        # Whoever enters a stage goes first and archives whoever was there: one call, so never none and never two.
        entering = [v for v in (wanted.production, wanted.staging) if v and seen.stages.get(v) != wanted.stage_of(v)]
        for version in entering:
            self._transition(version, wanted.stage_of(version), archive=True)
        for version, stage in (self._seen() if entering else seen).stages.items():
            if stage != wanted.stage_of(version):
                self._transition(version, wanted.stage_of(version), archive=False)

    def _transition(self, version: str, stage: Stage, archive: bool) -> None:
        with _no_deprecation_warning():
            self.client.transition_model_version_stage(self.usecase, version, stage, archive_existing_versions=archive)

    def _finish(self, intent: Entry) -> Entry:
        self._show(intent.after)
        done = replace(intent, kind="done", at=now())
        self.ledger.append(self.usecase, done)
        return done

    def _seen(self) -> Seen:
        versions = self.versions()
        return Seen(
            stages={str(version.version): _stage(version) for version in versions},
            aliases=self._aliases() if versions else {},
            registered={str(version.version): int(version.creation_timestamp or 0) for version in versions},
            updated={str(version.version): int(version.last_updated_timestamp or 0) for version in versions},
            has_stages=hasattr(self.client, "transition_model_version_stage"),
        )

    def _aliases(self) -> dict[str, str]:
        shown: Any = self.client.get_registered_model(self.usecase).aliases
        return {alias: str(version) for alias, version in shown.items() if alias in (*ALIASES, "previous")}


def open_registry(usecase: str, client: MlflowClient | None = None) -> Registry:
    """The registry of a use case on the servers and files that `mlflow.env` names; raises BadInput for no name."""
    if not re.fullmatch(NAME, usecase):
        raise BadInput(f"{usecase!r} is no name of a use case: expected lowercase letters, digits and dashes")
    load_environment()
    if client is None:
        from mlflow import MlflowClient

        client = MlflowClient()
    return Registry(usecase, client, Ledger(os.environ["LABLINE_LEDGER"]))


@contextlib.contextmanager
def alone(usecase: str, wait: bool = True) -> Iterator[bool]:
    """Be the only one who moves this use case's versions; without `wait`, yields False where somebody else is."""
    waiting = f"another promotion of {usecase} is going on: waiting for it to end" if wait else None
    with hold(storage_root() / "registry" / f"{usecase}.lock", waiting) as mine:
        yield mine


def look(registry: Registry) -> list[str]:
    """Reconcile unless somebody is just moving something; returns what was mended."""
    with alone(registry.usecase, wait=False) as mine:
        return registry.reconcile() if mine and registry.versions() else []


def person() -> str:
    """Who is doing this: LABLINE_USER, or the operating system's user."""
    try:
        return os.environ.get("LABLINE_USER") or getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _stage(version: ModelVersion) -> Stage:
    shown = getattr(version, "current_stage", "None")  # a future MLflow has none
    return next((stage for stage in get_args(Stage) if stage == shown), "None")


def _overtaken(pending: Entry, seen: Seen) -> bool:
    """Whether somebody put into Production by hand what an interrupted move knows nothing of."""
    ours = {pending.before.production, pending.after.production, None}
    shown = {seen.aliases.get("production"), *(v for v, stage in seen.stages.items() if stage == "Production")}
    return not shown <= ours


@contextlib.contextmanager
def _no_deprecation_warning() -> Iterator[None]:
    """MLflow has deprecated stages since 2.9; labline writes them beside aliases because users asked for both."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
