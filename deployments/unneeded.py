"""Prints the installed packages that labline does not need at run time: the development tools of the lock.

The lock has hashes for all of it, so all of it is installed, and this leaves the image again. Run by the Dockerfile.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("production", "postgres", "s3", "tflite")  # of labline, in the image
KEPT = {"labline", "pip"}


def needed(name: str, extras: Iterable[str]) -> set[str]:
    """The canonical names of everything that a package needs with these extras, itself included."""
    found: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(name), extra) for extra in ("", *extras)]
    while waiting:
        package, extra = waiting.pop()
        if (package, extra) in found:
            continue
        found.add((package, extra))
        try:
            declared = requires(package) or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, declared):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), wanted) for wanted in ("", *requirement.extras)]
    return {package for package, _ in found}


def unneeded() -> list[str]:
    """The canonical names of what is installed and not needed."""
    installed = {canonicalize_name(found.metadata["Name"]) for found in distributions()}
    return sorted(installed - needed("labline", EXTRAS) - KEPT)


if __name__ == "__main__":
    print("\n".join(unneeded()))
