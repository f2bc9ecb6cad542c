"""Reading declarations: from TOML and `--set` overrides to a checked `UseCase`, and back.

Every key is checked: unknown keys, wrong types and impossible combinations are refused with the
file, the key, what was expected and the nearest valid name.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from labline.errors import BadInput, nearest
from labline.series.usecase import SeriesUseCase
from labline.usecase import ImageUseCase, UseCase

MODALITIES: dict[str, type[UseCase]] = {"image": ImageUseCase, "series": SeriesUseCase}


def load_usecase(name_or_path: str, folder: Path, assignments: Iterable[str] = (), data: str | None = None) -> UseCase:
    """Load a declaration by name from `folder`, or from the path of a .toml file.

    `assignments` are `section.key=value` overrides, values in TOML syntax (bare words count as strings);
    `data` overrides `data.path`. Raises BadInput naming the file, the key, what was expected and the
    nearest valid name.
    """
    path, declared = read_declaration(name_or_path, folder, assignments, data)
    kind = _kind(declared, path)
    try:
        return kind.model_validate(declared)
    except ValidationError as error:
        raise BadInput(explain(error, path, kind)) from None


def read_declaration(
    name_or_path: str, folder: Path, assignments: Iterable[str] = (), data: str | None = None
) -> tuple[Path, dict[str, Any]]:
    """The file, and what it says with its overrides: as declared, without defaults and not yet checked."""
    path = find_declaration(name_or_path, folder)
    declared = _parse(path)
    for assignment in assignments:
        _assign(declared, assignment)
    if data is not None:
        _section(declared, ["data"], f"--data {data}")["path"] = data
    return path, declared


def load_image_usecase(
    name_or_path: str, folder: Path, assignments: Iterable[str] = (), data: str | None = None
) -> ImageUseCase:
    """Load the declaration of an application on images, and no other."""
    declaration = load_usecase(name_or_path, folder, assignments, data)
    if not isinstance(declaration, ImageUseCase):
        raise BadInput(f'{name_or_path}: expected an application with modality = "image"')
    return declaration


def load_series_usecase(
    name_or_path: str, folder: Path, assignments: Iterable[str] = (), data: str | None = None
) -> SeriesUseCase:
    """Load the declaration of an application on series, and no other."""
    declaration = load_usecase(name_or_path, folder, assignments, data)
    if not isinstance(declaration, SeriesUseCase):
        raise BadInput(f'{name_or_path}: expected an application with modality = "series"')
    return declaration


def _kind(declared: Mapping[str, Any], path: Path) -> type[UseCase]:
    """What kind of application it is, by its modality; an image's where it says none."""
    modality = declared.get("modality", "image")
    if modality not in MODALITIES:
        hint = nearest(str(modality), MODALITIES)
        raise BadInput(f"{path} cannot be used:\n  modality: {modality!r} is not known; {hint}")
    return MODALITIES[modality]


def shipped_names(folder: Path) -> list[str]:
    """The use cases that a folder declares, sorted; what `labline tune` writes, NAME.tuned.toml, is another NAME."""
    return sorted(path.stem for path in folder.glob("*.toml") if "." not in path.stem)


def find_declaration(name_or_path: str, folder: Path) -> Path:
    """The file of a use case; raises BadInput where there is none, with the nearest name that there is."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise BadInput(f"no declaration at {path}: expected a .toml file; see {folder} for examples")
        return path
    path = folder / f"{name_or_path}.toml"
    if not path.is_file():
        hint = nearest(name_or_path, shipped_names(folder))
        raise BadInput(f"no use case named {name_or_path!r} in {folder}: {hint}")
    return path


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from None


def _assign(declared: dict[str, Any], assignment: str) -> None:
    key, separator, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise BadInput(f"--set {assignment}: expected section.key=value, such as --set training.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    _section(declared, parts[:-1], f"--set {assignment}")[parts[-1]] = value


def _section(declared: dict[str, Any], parts: list[str], flag: str) -> dict[str, Any]:
    for part in parts:
        declared = declared.setdefault(part, {})
        if not isinstance(declared, dict):
            raise BadInput(f"{flag}: {part!r} is a value, not a section")
    return declared


def explain(error: ValidationError, path: Path | str, kind: type[UseCase]) -> str:
    """What pydantic refused, a line a problem: the key, what was expected, the nearest valid name."""
    lines = [_explain_one(dict(problem), kind) for problem in error.errors()]
    return f"{path} cannot be used:\n" + "\n".join(f"  {line}" for line in lines)


def _explain_one(problem: Mapping[str, Any], kind: type[UseCase]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; {nearest(location[-1], _keys(location[:-1], kind))}"
    if problem["type"] == "missing":
        return f"{key}: missing; it is required"
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"{key}: {problem['input']!r} is not known; {nearest(problem['input'], choices)}"
    scalar = not isinstance(problem["input"], dict | list)
    return f"{key}: {message}, not {problem['input']!r}" if key and scalar else f"{key}: {message}".removeprefix(": ")


def _keys(location: list[str], kind: type[UseCase]) -> Iterable[str]:
    """The keys that are valid at a place in the declaration."""
    section: type[BaseModel] = kind
    for part in location:
        field = section.model_fields.get(part)
        annotation = field.annotation if field else None
        candidates = [annotation, *get_args(annotation)]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)
    return section.model_fields


def expand(path: str, where: str) -> Path:
    """Expand ${VARIABLES} and ~ in a declared path; `where` names the key in the error about an unset one."""
    expanded = os.path.expandvars(os.path.expanduser(path))
    unset = re.findall(r"\$\{?(\w+)\}?", expanded)
    if unset:
        raise BadInput(f"{where} is {path!r}, but the environment variable {unset[0]} is not set: export {unset[0]}=…")
    return Path(expanded)


def as_toml(usecase: UseCase) -> str:
    """The declaration with every default filled in, as TOML."""
    return tomli_w.dumps(usecase.model_dump(exclude_none=True))


def own_modules(usecase: str) -> None:
    """Make a user's `module:name` importable from the current folder and from the folder of their declaration."""
    folders = [Path.cwd()] + ([Path(usecase).resolve().parent] if usecase.endswith(".toml") else [])
    sys.path[:0] = [str(folder) for folder in folders if str(folder) not in sys.path]
