"""Which version of a model stands where: the rules of the registry, without any registry.

`None → Staging → Production → Archived`. At most one version is in Production and one in Staging; whoever is
displaced is Archived; `earlier` remembers, oldest first, who was in Production before, which is what a rollback
goes back to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from labline.errors import BadInput

Stage = Literal["None", "Staging", "Production", "Archived"]
ALIASES: dict[str, Stage] = {"production": "Production", "staging": "Staging"}


@dataclass(frozen=True)
class Standing:
    """Where the versions of one registered model stand; a version that is named nowhere is in stage None."""

    production: str | None = None
    staging: str | None = None
    earlier: tuple[str, ...] = ()
    archived: frozenset[str] = frozenset()

    @property
    def previous(self) -> str | None:
        """The version that a rollback would restore."""
        return self.earlier[-1] if self.earlier else None

    @property
    def named(self) -> set[str]:
        """Every version that is named anywhere."""
        return {version for version in (self.production, self.staging) if version} | {*self.earlier, *self.archived}

    def stage_of(self, version: str) -> Stage:
        """The stage a version is in."""
        if version == self.production:
            return "Production"
        if version == self.staging:
            return "Staging"
        return "Archived" if version in self.archived else "None"

    def aliases(self) -> dict[str, str]:
        """The aliases that say the same."""
        named = {"production": self.production, "staging": self.staging, "previous": self.previous}
        return {alias: version for alias, version in named.items() if version}

    def as_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads."""
        return asdict(self) | {"archived": sorted(self.archived), "earlier": list(self.earlier)}

    @classmethod
    def from_json(cls, loaded: Mapping[str, Any]) -> Standing:
        """The standing that `as_json` wrote."""
        return cls(**{**loaded, "earlier": tuple(loaded["earlier"]), "archived": frozenset(loaded["archived"])})


@dataclass(frozen=True)
class Seen:
    """What a registry shows: the stage of every version that exists (None where it has no stages), and its aliases.

    `registered` and `updated` are when each version was made and last changed, in milliseconds since 1970.
    """

    stages: Mapping[str, Stage]
    aliases: Mapping[str, str]
    updated: Mapping[str, int] = field(default_factory=dict)
    registered: Mapping[str, int] = field(default_factory=dict)
    has_stages: bool = True


def promoted(standing: Standing, version: str, stage: Stage) -> Standing:
    """The version enters Staging or Production; whoever was there is Archived."""
    if stage == "Staging":
        if version == standing.production:
            raise BadInput(
                f"version {version} is in Production: it cannot enter Staging; roll back or archive it first"
            )
        return _settled(standing, standing.production, version)
    return _settled(standing, version, None if version == standing.staging else standing.staging)


def rolled_back(standing: Standing) -> Standing:
    """Production goes back to the version before; the one that was there is Archived."""
    if standing.previous is None:
        raise BadInput("there is no earlier Production version to roll back to; see labline history")
    return _settled(standing, standing.previous, standing.staging, back=True)


def archived(standing: Standing, version: str) -> Standing:
    """The version leaves its stage and is Archived; a rollback does not go back to it."""
    if version == standing.production:
        settled = _settled(standing, None, standing.staging)
    elif version == standing.staging:
        settled = _settled(standing, standing.production, None)
    else:
        settled = standing
    earlier = tuple(each for each in settled.earlier if each != version)
    return replace(settled, earlier=earlier, archived=settled.archived | {version})


def obeyed(expected: Standing, seen: Seen) -> Standing:
    """The standing after what somebody did by hand, judged by how a registry differs from what was `expected`.

    An alias that was moved wins, then a version that newly is in the stage (the one changed last, of several),
    then a version that was taken out of its stage. An alias that is merely gone is no wish: the stage still says
    it, and serving must not stop because of it; where there are no stages, it is. What does not exist any more is
    forgotten, and a version that is both in Staging and in Production is in Production.
    """
    known = _existing(expected, seen.stages)
    production = _chosen(known.production, "production", seen)
    staging = _chosen(known.staging, "staging", seen)
    back = production is not None and production == known.previous
    settled = _settled(known, production, None if staging == production else staging, back)
    if not seen.has_stages:
        return settled
    by_hand = {version for version, stage in seen.stages.items() if stage == "Archived"}
    unarchived = {version for version in known.archived if seen.stages[version] == "None"}
    held = {settled.production, settled.staging}
    return replace(settled, archived=frozenset((settled.archived | by_hand) - unarchived - held))


def differences(standing: Standing, seen: Seen) -> list[str]:
    """In plain words, where a registry's stages and aliases do not say what the standing says."""
    found = []
    for version, stage in seen.stages.items():
        if seen.has_stages and stage != standing.stage_of(version):
            found.append(f"version {version} is in stage {stage}, expected {standing.stage_of(version)}")
    wanted = standing.aliases()
    for alias in ("production", "staging", "previous"):
        shown = seen.aliases.get(alias)
        if shown != wanted.get(alias):
            found.append(f"alias {alias} is {_version(shown)}, expected {_version(wanted.get(alias))}")
    return found


def _version(version: str | None) -> str:
    return f"version {version}" if version else "not set"


def _settled(standing: Standing, production: str | None, staging: str | None, back: bool = False) -> Standing:
    """Move to a new Production and Staging; going `back` forgets the version that is left, going on remembers it."""
    before, earlier, now = standing.production, standing.earlier, {production, staging}
    if before and production not in (None, before) and not back:
        earlier = (*earlier, before)
    displaced = {version for version in (before, standing.staging) if version}
    return Standing(
        production=production,
        staging=staging,
        earlier=tuple(version for version in earlier if version not in now),
        archived=frozenset((standing.archived | displaced) - now),
    )


def _existing(standing: Standing, versions: Iterable[str]) -> Standing:
    exist = set(versions)
    return Standing(
        production=standing.production if standing.production in exist else None,
        staging=standing.staging if standing.staging in exist else None,
        earlier=tuple(version for version in standing.earlier if version in exist),
        archived=standing.archived & exist,
    )


def _chosen(expected: str | None, alias: str, seen: Seen) -> str | None:
    shown = seen.aliases.get(alias)
    if shown in seen.stages and shown != expected:
        return shown
    if not seen.has_stages:
        return shown if shown in seen.stages else None
    in_stage = [version for version, stage in seen.stages.items() if stage == ALIASES[alias]]
    newcomers = [version for version in in_stage if version != expected]
    if newcomers:
        return max(newcomers, key=lambda version: (seen.updated.get(version, 0), int(version)))
    return expected if expected in in_stage else None
