"""Choosing: which version is to be promoted, to which stage, against whom."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from labline.errors import BadInput, nearest
from labline.standing import ALIASES, Stage, Standing
from tasks.registry import Registry, alone


class Choice(BaseModel):
    """A version, the stage it is to enter and, for Production, the version that is there at that moment."""

    model_config = ConfigDict(frozen=True)

    version: str
    stage: Stage
    champion: str | None


def choose(registry: Registry, version: str | None, to: str | None) -> Choice:
    """Fill in what was not said: the version in Staging, else the newest; its next stage up.

    Raises BadInput where there is no such version or stage, or nothing to do.
    """
    if to is not None and to not in ALIASES:
        raise BadInput(f"--to {to}: no such stage; {nearest(to, ALIASES)}")
    with alone(registry.usecase):
        registry.reconcile()
    standing = registry.standing()
    chosen = str(registry.version(version).version) if version else _default(registry, standing)
    stage = ALIASES[to] if to else "Production" if standing.stage_of(chosen) == "Staging" else "Staging"
    now_in = standing.stage_of(chosen)
    if now_in == stage or (now_in == "Production" and to is None):
        raise BadInput(f"{registry.usecase} version {chosen} is in {now_in} already")
    return Choice(version=chosen, stage=stage, champion=standing.production if stage == "Production" else None)


def _default(registry: Registry, standing: Standing) -> str:
    if standing.staging:
        return standing.staging
    versions = registry.versions()
    if not versions:
        raise BadInput(f"nothing is registered as {registry.usecase} yet: labline run {registry.usecase}")
    return str(versions[0].version)
