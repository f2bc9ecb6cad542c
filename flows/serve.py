"""`labline serve`: the service of one use case, in this process's place."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from labline.errors import BadInput
from tasks.environment import load_environment


def serve(usecase: str, options: Mapping[str, object], json: bool) -> None:
    """Become `python -m serving USECASE`, with mlflow.env loaded; None among `options` is left to its default.

    Raises BadInput where nothing has been registered yet: a database is not created to find that out.
    """
    load_environment()
    registry = os.environ["MLFLOW_REGISTRY_URI"]
    if registry.startswith("sqlite:///") and not Path(registry.removeprefix("sqlite:///")).is_file():
        raise BadInput(f"nothing is registered yet in {registry}: labline run {usecase} registers a version")
    command = [sys.executable, "-P", "-m", "serving", usecase]  # -P: the user's folder may have a `serving` too
    command += [f"--{name}={value}" for name, value in options.items() if value is not None]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [*command, "--json"] if json else command)
