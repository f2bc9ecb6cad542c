"""`labline reproduce`: train a registered version again, from what the version itself holds, and compare.

The version's declaration is run from nothing, by a process of its own with a storage root of its own. What must come
out is the same dataset digest, the same weights and ONNX files bit for bit, and the same test metrics within 0.005.

Where the same bits can be expected, and where not:

- On a CPU: with the same sources, packages and kind of processor, and as many threads. Threads decide the order in
  which gradients are summed up, so the training takes as many as were recorded, whatever this machine would take.
  Another kind of processor has other vector instructions and another `precision = "auto"`: other last bits, and after
  a thousand steps other weights. `cleaning.label_issues = "quarantine"` judges labels by a network that is trained on
  the spot, so that there even the dataset can differ on another kind of processor.
- On a GPU: cuDNN is held to deterministic kernels, but not every kernel of torch has one; on the same model of GPU
  the same bits are likely and not promised.
- ONNX export and INT8 quantization give the same bytes for the same weights, on any number of threads.
- Which candidate is released depends on measured speed, so the one that the version released is looked up by its name
  among those of the new run, and judged on the test split here, whichever was chosen this time.

A version holds no code and no data: modules of the user's own must be importable, and the data must lie where the
declaration says. Whatever differs from the record is reported as a finding and fails nothing by itself.
"""

from __future__ import annotations

import contextlib
import json as json_format
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from labline.errors import BadInput, LablineError, nearest
from labline.series.usecase import SeriesUseCase
from tasks.environment import PROJECT, USECASES, load_environment

if TYPE_CHECKING:
    from tasks.lineage import Trained

TOLERANCE = 0.005  # of every test metric: absolute for images, a share of it for forecasters
DIGESTS = {"dataset": "dataset.digest", "weights": "weights.sha256", "fp32 ONNX": "onnx.sha256"}
CARRIED = {
    "extra_files/model.safetensors": "weights.sha256",
    "extra_files/fp32.onnx": "onnx.sha256",
    "model.onnx": "chosen.sha256",
}


def show_reproduction(version_uri: str, keep: Path | None, json: bool) -> None:
    """Reproduce a version before a person's eyes; exits with 1 where it was not reproduced, 130 on Ctrl-C."""
    from rich.console import Console

    from flows.console import print_json_line

    console = Console(stderr=json, highlight=False)
    # Whoever ends this process ends the training that it started.
    usual = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        summary = reproduce(version_uri, keep, say=lambda finding: console.print(f"[yellow]![/] {finding}"))
    except KeyboardInterrupt:
        console.print("interrupted: the training was stopped and nothing is compared")
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, usual)
        Console(stderr=True).show_cursor()  # hidden by the training's progress bars, should it have been stopped
    _print(summary, console)
    if json:
        print_json_line(summary)
    if not summary["reproduced"]:
        sys.exit(1)


def reproduce(
    version_uri: str, keep: Path | None = None, say: Callable[[str], None] = lambda finding: None
) -> dict[str, Any]:
    """Train the version `models:/NAME/N` or `models:/NAME@ALIAS` again and compare.

    Returns {version, findings: [sentence], checks: [{check, recorded, reproduced, same}], reproduced}; `say` is told
    every finding when it is made. `keep` is a new folder that the version's files (`version/`) and the new storage
    root (`store/`) stay in; otherwise they are removed. Raises BadInput for what is no version of labline's, and where
    data or modules are not there; LablineError where the training fails.
    """
    load_environment()
    version = _resolve(version_uri)
    findings: list[str] = []

    def find(finding: str) -> None:
        findings.append(finding)
        say(finding)

    with _folder(keep) as folder:
        carried = _download(version, folder / "version")
        recorded = json_format.loads((carried / "extra_files" / "environment.json").read_text())
        for finding in _present_differences(version, carried, recorded):
            find(finding)
        retrained = _train(version, carried, folder / "store", recorded["threads"])
        chosen = recorded["compression.chosen"]
        if retrained["chosen"] != chosen:
            find(
                f"{chosen} was released then, {retrained['chosen']} would be now: the choice depends on measured "
                f"speed, so {chosen} is what is compared"
            )
        checks = _compare(carried, folder / "store", recorded)
    reproduced = all(check["same"] for check in checks)
    return {"version": version, "findings": findings, "checks": checks, "reproduced": reproduced}


def _resolve(version_uri: str) -> str:
    """The version as models:/NAME/N; raises BadInput naming what there is."""
    from mlflow import MlflowClient

    named = re.fullmatch(r"models:/([\w.-]+)(?:/(\d+)|@([\w.-]+))", version_uri)
    if named is None:
        raise BadInput(f"{version_uri!r} names no version: expected models:/NAME/N or models:/NAME@ALIAS")
    name, number, alias = named.groups()
    tracking = os.environ["MLFLOW_TRACKING_URI"]
    # A database is not created to find nothing in it.
    absent = tracking.startswith("sqlite:///") and not Path(tracking.removeprefix("sqlite:///")).is_file()
    models = {} if absent else {model.name: model for model in MlflowClient().search_registered_models()}
    if name not in models:
        hint = nearest(name, models) if models else "nothing is registered there: labline run trains a use case"
        raise BadInput(f"no model {name!r} in the registry {os.environ['MLFLOW_REGISTRY_URI']}; {hint}")
    if alias:
        aliases: Mapping[str, Any] = models[name].aliases
        if alias not in aliases:
            hint = nearest(alias, aliases) if aliases else "it has none"
            raise BadInput(f"{name} has no version with the alias {alias!r}; {hint}")
        return f"models:/{name}/{aliases[alias]}"
    versions = [str(version.version) for version in MlflowClient().search_model_versions(f"name = '{name}'")]
    if number not in versions:
        raise BadInput(f"{name} has no version {number}; {nearest(number, versions)}")
    return f"models:/{name}/{number}"


def _download(version: str, folder: Path) -> Path:
    """The version's files; raises BadInput where they are gone or not labline's."""
    import mlflow
    from mlflow.exceptions import MlflowException

    folder.mkdir(parents=True)
    try:
        carried = Path(mlflow.artifacts.download_artifacts(artifact_uri=version, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        raise BadInput(f"the files of {version} cannot be fetched: {error}; are its artifacts still there?") from None
    for name in ("usecase.toml", "environment.json"):
        if not (carried / "extra_files" / name).is_file():
            raise BadInput(
                f"{version} holds no {name}: it was not registered by this labline, or by one that kept no lineage "
                "yet, so there is nothing to train it again from; expected a version made by labline run"
            )
    return carried


def _present_differences(version: str, carried: Path, recorded: Mapping[str, str]) -> Iterator[str]:
    """What is not as recorded: the version's files, the code, the packages, the machine."""
    from labline.declaration import own_modules
    from tasks.lineage import differences, facts
    from tasks.stage import file_digest

    for name, fact in CARRIED.items():
        if file_digest(carried / name) != recorded[fact]:
            yield f"{name} of {version} is not the file that was registered: somebody changed the artifacts"
    declared = str(carried / "extra_files" / "usecase.toml")
    own_modules(declared)
    declaration = _declaration(carried)
    _refuse_missing_modules(version, declaration)
    _refuse_missing_data(version, declaration)
    present = facts(declaration)
    yield from differences(recorded, present | {"threads": recorded["threads"]})
    if present["threads"] != recorded["threads"]:
        threads = recorded["threads"]
        yield f"threads: {threads} in training, {present['threads']} usual here; it is trained with {threads} again"


def _declaration(carried: Path) -> Trained:
    from labline.declaration import load_usecase

    return cast("Trained", load_usecase(str(carried / "extra_files" / "usecase.toml"), USECASES))


def _refuse_missing_modules(version: str, declaration: Trained) -> None:
    from tasks.lineage import own_references
    from tasks.stage import module_digest

    for reference in own_references(declaration):
        if not module_digest(reference):
            module = reference.partition(":")[0]
            raise BadInput(
                f"{version} was trained with {reference}, your own module, whose code a version does not hold: "
                f"run labline reproduce from the folder of {module}.py, or set PYTHONPATH to that folder"
            )


def _refuse_missing_data(version: str, declaration: Trained) -> None:
    from labline.declaration import expand

    path = declaration.data.path
    if path and not declaration.data.options.get("download") and not expand(path, "data.path").exists():
        raise BadInput(
            f"{version} was trained on data.path = {path!r}, and nothing is there: a version holds no data; "
            "bring them back to that place (a relative path counts from the current folder)"
        )


def _train(version: str, carried: Path, store: Path, threads: str) -> dict[str, Any]:
    """Run the whole chain from nothing in a process of its own; its summary. Its progress goes to standard error."""
    from flows.processes import stop

    command = [sys.executable, "-P", "-c", "from flows.cli import main; main()"]
    declared = str(carried / "extra_files" / "usecase.toml")
    training = subprocess.Popen(
        [*command, "run", declared, "--json", "--set", "gates={}"],
        env=_environment(store, threads),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        process_group=0,  # so that stop() reaches the servers and workers that it starts
    )
    try:
        out, _ = training.communicate()
    finally:
        stop({"training": training})
    last = (out.decode().strip().splitlines() or [""])[-1]
    if training.returncode != 0:
        kind = BadInput if training.returncode == BadInput.exit_code else LablineError
        raise kind(f"{version} cannot be trained again here: {_cause(last, training.returncode)}")
    summary: dict[str, Any] = json_format.loads(last)
    return summary


def _cause(last_line: str, code: int) -> str:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json_format.loads(last_line)["error"])
    return f"the training ended with code {code}; --keep FOLDER leaves what it wrote"


def _environment(store: Path, threads: str) -> dict[str, str]:
    """The environment of somebody who has set nothing but a storage root, with the recorded number of threads."""
    from dotenv import dotenv_values

    settings = dotenv_values(PROJECT / "mlflow.env")  # load_environment() has filled them in for this storage root
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in settings and not name.startswith(("MLFLOW_", "PREFECT_"))
    }
    importable = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {
        "LABLINE_STORE": str(store),
        "OMP_NUM_THREADS": threads,
        "PYTHONPATH": os.pathsep.join(importable),
    }


def _compare(carried: Path, store: Path, recorded: Mapping[str, str]) -> list[dict[str, Any]]:
    """What was recorded beside what came out."""
    from tasks.stage import file_digest

    (lineage,) = (store / "stages" / "register").glob("*/version/environment.json")
    reproduced = json_format.loads(lineage.read_text())
    checks = [_check(what, recorded[fact], reproduced[fact]) for what, fact in DIGESTS.items()]
    chosen = recorded["compression.chosen"]
    released = next((store / "stages" / "compress").glob(f"*/{chosen}.onnx"), None)
    digest = "absent" if released is None else file_digest(released)
    checks.append(_check(f"released ONNX ({chosen})", recorded["chosen.sha256"], digest))
    return checks + _compare_metrics(carried, store, released)


def _compare_metrics(carried: Path, store: Path, released: Path | None) -> list[dict[str, Any]]:
    """The recorded metrics of the test split beside those of the ONNX file that was released again, if it was."""
    (described,) = (store / "stages" / "clean").glob("*/dataset.json")
    evaluation, declaration = carried / "extra_files" / "evaluation.json", _declaration(carried)
    if isinstance(declaration, SeriesUseCase):
        before, after = _forecaster_metrics(evaluation, declaration, released, described.parent)
    else:
        before, after = _classifier_metrics(evaluation, released, described.parent)
    relative = isinstance(declaration, SeriesUseCase)
    return [
        _check(f"test {name.replace('_', ' ')}", value, after.get(name), relative) for name, value in before.items()
    ]


def _check(what: str, recorded: str | float, reproduced: str | float | None, relative: bool = False) -> dict[str, Any]:
    """One comparison: figures within the tolerance, absolute or as a share; everything else as it is."""
    same = recorded == reproduced
    if isinstance(recorded, float) and isinstance(reproduced, float):
        both_undefined = math.isnan(recorded) and math.isnan(reproduced)
        allowed = TOLERANCE * (abs(recorded) if relative else 1)
        same = both_undefined or math.isclose(recorded, reproduced, rel_tol=0, abs_tol=allowed)
    return {"check": what, "recorded": recorded, "reproduced": reproduced, "same": same}


def _classifier_metrics(
    evaluation: Path, released: Path | None, dataset: Path
) -> tuple[dict[str, float], dict[str, float]]:
    from scipy.special import softmax

    from labline.data.dataset import open_dataset
    from labline.evaluation import evaluate, open_evaluation
    from labline.export.onnx_runtime import onnx_logits, session

    before = open_evaluation(evaluation).metrics
    if released is None:
        return before, {}
    data = open_dataset(dataset)
    images, targets = data.split("test")
    beliefs = softmax(onnx_logits(session(released, threads=0), images), axis=1)
    rows = data.rows("test").reset_index(drop=True)
    return before, evaluate(beliefs, targets, data.labels, rows, bootstrap=0).metrics


def _forecaster_metrics(
    evaluation: Path, declaration: SeriesUseCase, released: Path | None, dataset: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """The forecaster's own metrics; those of its rivals say nothing of it."""
    from labline.export.onnx_runtime import session
    from labline.series.assessment import open_assessment, own_metrics
    from labline.series.dataset import open_series, windows
    from labline.series.export import onnx_forecasts
    from labline.series.weights import forecast_settings

    recorded = open_assessment(evaluation).metrics
    data, settings = open_series(dataset), forecast_settings(declaration)
    before = {name: value for name, value in recorded.items() if name in settings.metrics}
    if released is None:
        return before, {}
    test = windows(data, "test")
    outputs = onnx_forecasts(session(released, threads=0), test)
    moments = data.manifest["timestamp"].iloc[test.indices]
    return before, own_metrics(outputs, data.targets[test.indices], moments, settings)[0]


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder to keep, new or empty; or one that is removed at the end, however that comes."""
    if keep is None:
        temporary = Path(tempfile.mkdtemp(prefix="labline-reproduce-"))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        occupied = any(keep.iterdir())
    except OSError as error:
        raise BadInput(f"--keep {keep} cannot be used ({error.strerror}): name a new folder") from None
    if occupied:
        raise BadInput(f"--keep {keep} is not empty: name a new folder, since the training must start from nothing")
    yield keep.resolve()


def _print(summary: Mapping[str, Any], console: Any) -> None:
    from rich.table import Table

    table = Table("", "check", "recorded", "reproduced", title=f"{summary['version']}, trained again")
    for check in summary["checks"]:
        mark = "[green]same[/]" if check["same"] else "[red]differs[/]"
        table.add_row(mark, check["check"], _cell(check["recorded"]), _cell(check["reproduced"]))
    console.print(table)
    for finding in summary["findings"]:
        console.print(f"[yellow]![/] {finding}")
    console.print("[green]reproduced[/]" if summary["reproduced"] else "[red]not reproduced[/]")


def _cell(value: str | float | None) -> str:
    """A digest by its first twelve digits, a figure by its first five."""
    return "absent" if value is None else f"{value:.5f}" if isinstance(value, float) else value[:12]
