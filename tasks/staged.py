"""Staged: the version that stands in a stage, or the one that was asked for."""

from __future__ import annotations

import os
from pathlib import Path

from labline.errors import BadInput, nearest
from labline.standing import ALIASES
from tasks.environment import load_environment
from tasks.registry import Registry, look, open_registry


def staged_version(usecase: str, stage: str = "production", number: str | None = None) -> tuple[Registry, str]:
    """The registry, and the version `number` or else the one in `stage`, production or staging.

    Raises BadInput where nothing is registered, and where there is no such version or stage; no database is created
    to find that out.
    """
    if stage not in ALIASES:
        raise BadInput(f"--stage {stage}: no such stage; {nearest(stage, ALIASES)}")
    load_environment()
    address = os.environ["MLFLOW_REGISTRY_URI"]
    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).is_file():
        raise BadInput(f"nothing is registered yet in {address}: labline run {usecase} registers a version")
    registry = open_registry(usecase)
    if not registry.versions():
        raise BadInput(f"nothing is registered as {usecase!r}: labline list shows what is; labline run {usecase}")
    if number is not None:
        return registry, str(registry.version(number).version)
    look(registry)
    standing = registry.standing()
    found = standing.production if stage == "production" else standing.staging
    if found is None:
        raise BadInput(
            f"nothing of {usecase} is in {ALIASES[stage]}: labline promote {usecase} moves a version there, "
            "--version N takes any"
        )
    return registry, found
