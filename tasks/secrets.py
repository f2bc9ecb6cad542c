"""Secrets: from the environment, or from the file or folder that LABLINE_SECRETS names.

A file has lines of NAME=VALUE, as `.env` files do. A folder has a file for each, named like its variable: that is how
Kubernetes and Docker hand secrets to a container.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from labline.errors import BadInput

VARIABLE = "LABLINE_SECRETS"


def load_secrets() -> None:
    """Fill in the environment from what LABLINE_SECRETS names; real environment variables win.

    Raises BadInput where it is set and cannot be read.
    """
    named = os.environ.get(VARIABLE)
    for name, value in (read_secrets(Path(named)) if named else {}).items():
        os.environ.setdefault(name, value)


def read_secrets(path: Path) -> dict[str, str]:
    """The secrets in a file or folder by variable; raises BadInput where they cannot be read."""
    try:
        return _in_folder(path) if path.is_dir() else _in_file(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise BadInput(
            f"{VARIABLE}={path} cannot be read ({reason}): a file with lines of NAME=VALUE was expected, or a folder "
            "with a file for each variable"
        ) from None


def write_secrets(path: Path, secrets: Mapping[str, str]) -> None:
    """Write a file that `read_secrets` reads and nobody else: its mode is 600 from the beginning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}-{os.getpid()}")
    written.unlink(missing_ok=True)
    with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}='{value}'\n" for name, value in secrets.items())
    written.replace(path)


def _in_folder(folder: Path) -> dict[str, str]:
    # Kubernetes keeps its versions of them in folders that begin with two dots.
    return {path.name: path.read_text().strip() for path in sorted(folder.iterdir()) if path.is_file()}


def _in_file(path: Path) -> dict[str, str]:
    import io

    from dotenv import dotenv_values

    found = dotenv_values(stream=io.StringIO(path.read_text()), interpolate=False)
    return {name: value for name, value in found.items() if value is not None}
