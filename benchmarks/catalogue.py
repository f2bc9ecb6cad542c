"""Which benchmarks there are: the files of this folder with a `measure()`, read without being imported."""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import FileFinder

import benchmarks

DEFAULT_MINUTES = 5.0


@dataclass(frozen=True)
class Entry:
    """A benchmark as it is listed: its name, its docstring, and the minutes it declares to take."""

    name: str
    purpose: str
    minutes: float

    @property
    def headline(self) -> str:
        """The first sentence of the docstring."""
        return self.purpose.split("\n\n", 1)[0].replace("\n", " ").split(". ", 1)[0].rstrip(".")


def catalogue() -> dict[str, Entry]:
    """Every benchmark by name, in the order of the alphabet."""
    return {entry.name: entry for entry in _entries()}


def _entries() -> Iterator[Entry]:
    for found in sorted(pkgutil.iter_modules(benchmarks.__path__), key=lambda module: module.name):
        finder = found.module_finder
        specification = finder.find_spec(found.name) if isinstance(finder, FileFinder) else None
        if specification is None or specification.origin is None or found.ispkg or found.name == "__main__":
            continue
        with open(specification.origin, encoding="utf-8") as file:
            module = ast.parse(file.read())
        if any(isinstance(node, ast.FunctionDef) and node.name == "measure" for node in module.body):
            yield Entry(found.name, ast.get_docstring(module) or "", _minutes(module))


def _minutes(module: ast.Module) -> float:
    """The module's constant MINUTES; 5 where it declares none."""
    for node in module.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "MINUTES" for t in node.targets):
            return float(ast.literal_eval(node.value))
    return DEFAULT_MINUTES
