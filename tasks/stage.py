"""Stages: Prefect tasks cached by content, whose evidence lands on the MLflow run and the Prefect page.

A stage's key is made of the parts of the declaration it reads, the digests of its inputs and the
sources it depends on. When a stage runs although an earlier result exists, it can say what changed.
Where an object storage stands behind the storage root, what has ended there under the same key, on whatever
machine, is taken as if it had ended here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.results import get_result_store
from prefect.serializers import JSONSerializer

from labline.errors import LablineError
from labline.references import Reference
from labline.usecase import UseCase
from tasks.environment import storage_problem, storage_root
from tasks.observer import StageRecord
from tasks.recording import Recording, current_recording
from tasks.sharing import adopt, bring_checkpoint, drop_checkpoint, evidence, is_here, share
from tasks.workspace import Workspace

Result = TypeVar("Result", bound=Reference)


@dataclass(frozen=True)
class Stage(Generic[Result]):
    """One stage, called like the function it wraps: `declaration` first, then earlier stages' results."""

    name: str
    function: Callable[..., Result]
    sections: tuple[str, ...]
    depends: Callable[[Any], Mapping[str, str]]
    resumes: bool
    retries: int
    still_valid: Callable[[Result], bool]

    def __call__(self, declaration: UseCase, *inputs: Reference) -> Result:
        """Run the stage, or take its result from the cache; raises LablineError where it cannot go on."""
        recording = current_recording()
        recording.observer.started(self.name)
        begun = time.perf_counter()
        parts = self._key_parts(declaration, inputs)
        name = self._name(parts)
        try:
            complete = not recording.fresh and (is_here(name) or self._adopt(name, parts))
            reason = "" if complete else self._why(storage_root() / name, parts, declaration.name)
            result, cached = self._run(declaration, inputs, parts, refresh=not complete)
            if cached and not self.still_valid(result):
                reason = "its result is gone"
                result, cached = self._run(declaration, inputs, parts, refresh=True)
            self._share(name, result)
            if cached:
                recording.defer(self.name, evidence(name))
        except BaseException as error:
            recording.observer.failed(self.name)
            problem = storage_problem(error)
            if problem is not None:
                raise problem from error
            raise
        seconds = time.perf_counter() - begun
        recording.finished(StageRecord(self.name, seconds, cached, result.figure, reason))
        return result

    def key(self, declaration: UseCase, *inputs: Reference) -> str:
        """A digest of all that decides the stage's result."""
        return _digest(self._key_parts(declaration, inputs))

    def _run(
        self, declaration: UseCase, inputs: Sequence[Reference], parts: dict[str, Any], refresh: bool
    ) -> tuple[Result, bool]:
        prefect_task: Task[..., Any] = self._task(parts).with_options(refresh_cache=refresh)
        state: Any = prefect_task(declaration, list(inputs), return_state=True)
        return state.result(), state.name == "Cached"

    def _adopt(self, name: str, parts: dict[str, Any]) -> bool:
        """Let Prefect find the result of what ended on another machine; False where nothing did."""
        published = adopt(name)
        if published is None:
            return False
        results: Any = get_result_store()  # typed as if it might be awaited
        store = results.update_for_task(self._task(parts))
        store.write(JSONSerializer().loads(published.result.encode()), key=self._key(parts))
        return True

    def _share(self, name: str, result: Result) -> None:
        """Publish what has ended here, or had ended when the object storage could not be reached."""
        if share(name, lambda: JSONSerializer().dumps(result).decode()) and self.resumes:
            drop_checkpoint(name)

    def _task(self, parts: dict[str, Any]) -> Task[..., Any]:
        key = self._key(parts)

        def run(declaration: UseCase, inputs: list[Reference]) -> Result:
            return self._execute(declaration, inputs, parts)

        return Task(
            run,
            name=self.name,
            task_run_name=self.name,
            description=(self.function.__doc__ or "").split("\n")[0],
            persist_result=True,
            cache_policy=CachePolicy.from_cache_key_fn(lambda context, values: key),
            retries=self.retries,
            retry_delay_seconds=2,
            retry_condition_fn=is_transient,
        )

    def _execute(self, declaration: UseCase, inputs: Sequence[Reference], parts: dict[str, Any]) -> Result:
        recording = current_recording()
        name = self._name(parts)
        folder = storage_root() / name
        partial = folder.with_name(folder.name + ".partial")
        if partial.exists() and (recording.fresh or not self.resumes):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        if self.resumes and recording.fresh:
            drop_checkpoint(name)  # workers elsewhere look for it too
        elif self.resumes:
            bring_checkpoint(name, partial)
        workspace = Workspace(self.name, storage_root(), name, partial, recording, self.resumes)
        try:
            result = self.function(declaration, *inputs, workspace=workspace)
        except LablineError as error:
            workspace.say(f"**Failed.** {error}")
            workspace.close()
            recording.log_evidence(self.name, partial, history=False)
            _show_on_prefect(declaration, "failed", workspace, partial, recording)
            raise
        workspace.close()
        (partial / "key.json").write_text(json.dumps({"usecase": declaration.name, **parts}, indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        recording.log_evidence(self.name, folder, history=False)
        _show_on_prefect(declaration, result.figure, workspace, folder, recording)
        return result

    def _key_parts(self, declaration: UseCase, inputs: Sequence[Reference]) -> dict[str, Any]:
        declared = declaration.model_dump(mode="json")
        return {
            "declaration": {section: declared[section] for section in self.sections},
            "inputs": {type(result).__name__: result.digest for result in inputs},
            "depends": dict(self.depends(declaration)),
            "source": _sources(self.function.__module__),
        }

    def _name(self, parts: dict[str, Any]) -> str:
        """The stage's folder, relative to the storage root."""
        return f"stages/{self.name}/{_digest(parts)[:20]}"

    def _key(self, parts: dict[str, Any]) -> str:
        """What Prefect keeps the result under."""
        return f"{self.name}-{_digest(parts)}"

    def _why(self, folder: Path, parts: dict[str, Any], usecase: str) -> str:
        """What changed since this stage last ran for this use case."""
        if folder.is_dir():
            return "asked for (--fresh)"
        earlier = []
        for path in folder.parent.glob("*/key.json"):
            known = json.loads(path.read_text())
            if known["usecase"] == usecase and path.parent.suffix != ".partial":
                earlier.append((path.stat().st_mtime, known))
        if not earlier:
            return "first run"
        changed = _differences(max(earlier, key=lambda found: found[0])[1], parts)
        return "changed: " + ", ".join(changed[:3]) + (" …" if len(changed) > 3 else "")


def stage(
    *,
    sections: Sequence[str] = (),
    depends: Callable[[Any], Mapping[str, str]] = lambda declaration: {},
    resumes: bool = False,
    retries: int = 0,
    still_valid: Callable[[Any], bool] = lambda result: True,
) -> Callable[[Callable[..., Result]], Stage[Result]]:
    """Make a stage of a function `(declaration, *inputs, workspace) -> Reference`.

    `sections` are the parts of the declaration it reads; `depends` names files outside the declaration
    whose content counts, with their digests; `resumes` keeps a killed run's partial folder for the next;
    `still_valid` says whether a cached result still stands outside the storage root.
    """

    def wrap(function: Callable[..., Result]) -> Stage[Result]:
        return Stage(function.__name__, function, tuple(sections), depends, resumes, retries, still_valid)

    return wrap


def file_digest(path: Path) -> str:
    """sha256 of a small file, or 'absent'."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"


def module_digest(reference: str) -> str:
    """sha256 of the file behind a user's `module:name`; empty for anything shipped, and for what cannot be found."""
    module, separator, _ = reference.partition(":")
    try:
        specification = find_spec(module) if separator else None
    except Exception:  # a package is imported to look inside it: whoever needs the module says why that fails
        return ""
    return file_digest(Path(specification.origin)) if specification and specification.origin else ""


def is_transient(task: object, run: object, state: Any) -> bool:
    """Whether a task failed for what is worth another try."""
    return lost_connection(state.result(raise_on_failure=False))


def lost_connection(error: BaseException | None) -> bool:
    """A lost connection is worth another try, however deep a library wrapped it; bad input and bugs are not."""
    from requests.exceptions import ConnectionError as RequestConnectionError

    while error is not None and not isinstance(error, LablineError):
        if isinstance(error, ConnectionError | TimeoutError | RequestConnectionError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _digest(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@cache
def _sources(module: str) -> dict[str, str]:
    """Digest of a stage's module and of every module of ours it imports, directly or not."""
    graph = _import_graph()
    imported = graph.find_upstream_modules(module) if module in graph.modules else set()
    names = {module, *imported} - _SCAFFOLDING
    return {name: digest for name in sorted(names) if (digest := _module_file_digest(name))}


# How stages are run, not what they compute: a change here must not retrain anybody's model.
_SCAFFOLDING = {
    "tasks.stage",
    "tasks.recording",
    "tasks.workspace",
    "tasks.environment",
    "tasks.running",
    "tasks.observer",
    "tasks.lineage",
    "tasks.sharing",
    "tasks.publication",
    "tasks.local_cache",
    "tasks.cluster",
    "tasks.trained",
    "tasks.shards",
    "tasks.object_storage",
    "tasks",
    "labline",
    "labline.engine",
    "labline.sharding",
    "labline.errors",
    "labline.usecase",
    "labline.series.usecase",
    "labline.series.declaration",
    "labline.tuning.declaration",
    "labline.references",
}


@cache
def _import_graph() -> Any:
    import grimp

    return grimp.build_graph("labline", "tasks", cache_dir=None)


@cache
def _module_file_digest(name: str) -> str:
    """Empty where there is no such file. find_spec would import the packages above: labline.models takes torch."""
    package, *parts = name.split(".")
    specification = find_spec(package)
    if specification is None or specification.origin is None:
        return ""
    place = Path(specification.origin).parent.joinpath(*parts)
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return file_digest(path)[:16] if path.is_file() else ""


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if before == after or (not prefix and key == "usecase"):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            changed += _differences(before, after, f"{prefix}{key}.")
        else:
            name = f"{prefix}{key}".removeprefix("declaration.").replace("source.", "source of ")
            changed.append(name if prefix.startswith(("inputs", "source", "depends")) else f"{name} {before} → {after}")
    return changed


def _show_on_prefect(
    declaration: UseCase, figure: str, workspace: Workspace, folder: Path, recording: Recording
) -> None:
    """Leave the stage's summary and plots as artifacts of the Prefect task run."""
    from base64 import b64encode

    from prefect.artifacts import create_image_artifact, create_markdown_artifact

    key = f"{declaration.name}-{workspace.stage}"
    heading = f"## {workspace.stage}: {figure}\n\nMLflow run `{recording.run_id}`"
    create_markdown_artifact(key=key, markdown=f"{heading}\n\n{workspace.summary}", description=figure)
    for plot in sorted((folder / "evidence" / "files").glob("*.png")):
        encoded = b64encode(plot.read_bytes()).decode()
        name = plot.stem.replace("_", "-")
        create_image_artifact(
            key=f"{key}-{name}", image_url=f"data:image/png;base64,{encoded}", description=plot.stem.replace("_", " ")
        )
