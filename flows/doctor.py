"""`labline doctor`: is this machine ready, and if not, what to do."""

from __future__ import annotations

import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from flows.accounts import check_accounts
from labline.errors import LablineError
from labline.export.tflite_runtime import MODULES
from tasks.environment import PROJECT, USECASES, load_environment, local_databases

STACK = ("prefect", "mlflow", "torch", "torchvision", "onnx", "onnxruntime", "pandas", "great-expectations")
ENOUGH_BYTES = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `advice` says what to do where `ok` is false."""

    subject: str
    ok: bool
    seen: str
    advice: str = ""


def examine(repair: bool, json: bool) -> None:
    """Print every finding; exits with 2 where one is not ok. `repair` mends what the registry shows wrongly."""
    from rich.console import Console
    from rich.table import Table

    from flows.console import print_json_line

    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _storage,
        _servers,
        _accounts,
        _devices,
        _usecases,
        partial(_registry, repair),
    )
    console = Console(stderr=json, highlight=False)
    with console.status("looking around"):
        findings = [finding for check in checks for finding in check()]
    table = Table("", "what", "seen", "what to do")
    for finding in findings:
        table.add_row("[green]ok[/]" if finding.ok else "[red]!![/]", finding.subject, finding.seen, finding.advice)
    console.print(table)
    healthy = all(finding.ok for finding in findings)
    if json:
        print_json_line({"ok": healthy, "findings": [asdict(finding) for finding in findings]})
    if not healthy:
        sys.exit(2)


def _python() -> Iterator[Finding]:
    seen = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "python", sys.version_info >= (3, 11), seen, "" if sys.version_info >= (3, 11) else "use 3.11 or newer"
    )


def _packages() -> Iterator[Finding]:
    for name in STACK:
        try:
            yield Finding(name, True, version(name))
        except PackageNotFoundError:
            yield Finding(name, False, "not installed", "make setup")
    missing = [name for name in MODULES if find_spec(name) is None]
    yield Finding(
        "tflite export", True, f"without {', '.join(missing)}: make setup adds it" if missing else "installed"
    )


def _storage() -> Iterator[Finding]:
    try:
        store = load_environment()
    except LablineError as error:
        yield Finding("storage root", False, os.environ.get("LABLINE_STORE", "?"), str(error))
        return
    free = shutil.disk_usage(store).free
    advice = "" if free >= ENOUGH_BYTES else "less than 5 GiB are free: free space or set LABLINE_STORE elsewhere"
    yield Finding("storage root", not advice, f"{store}, {free / 2**30:.1f} GiB free", advice)
    yield from _object_storage()


def _object_storage() -> Iterator[Finding]:
    """Whether what is behind the storage root can be written and read."""
    from tasks.object_storage import opened, probe

    storage = opened()
    if storage is None:
        return
    try:
        yield Finding("object storage", True, f"{storage.url}, written and read in {probe(storage):.2f} s")
    except LablineError as error:
        yield Finding("object storage", False, storage.url, str(error))
    if databases := local_databases():
        yield Finding("databases", True, f"{', '.join(databases)}: on this machine alone, not in the object storage")


def _servers() -> Iterator[Finding]:
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    yield _server("mlflow", tracking, "/health", "MLFLOW_TRACKING_URI", "labline ui serves its pages")
    prefect = os.environ.get("PREFECT_API_URL", "")
    yield _server("prefect", prefect, "/health", "PREFECT_API_URL", "labline ui serves its pages")


def _accounts() -> Iterator[Finding]:
    try:
        check_accounts(os.environ.get("PREFECT_API_URL", ""), os.environ.get("MLFLOW_TRACKING_URI", ""))
    except LablineError as error:
        yield Finding("accounts", False, "refused", str(error))


def _server(name: str, address: str, health: str, variable: str, embedded: str) -> Finding:
    if not address.startswith("http"):
        return Finding(f"{name} server", True, f"embedded ({embedded})")
    try:
        with urllib.request.urlopen(address.rstrip("/") + health, timeout=5):
            return Finding(f"{name} server", True, address)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        return Finding(
            f"{name} server", False, f"{address}: {reason}", f"start it, or unset {variable} to work embedded"
        )


def _devices() -> Iterator[Finding]:
    import torch

    from labline.training import choose_precision

    precision = str(choose_precision("auto", torch.device("cpu"))).removeprefix("torch.")
    yield Finding("cpu", True, f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, trains in {precision}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield Finding(f"cuda:{index}", True, torch.cuda.get_device_name(index))
    else:
        yield Finding("gpu", True, "none: training runs on the CPU")


def _usecases() -> Iterator[Finding]:
    from labline.declaration import load_usecase, shipped_names

    for name in shipped_names(USECASES):
        try:
            load_usecase(name, USECASES)
        except LablineError as error:
            yield Finding(f"declaration {name}", False, "cannot be used", str(error))
    if not os.environ.get("LABLINE_DATA"):
        yield Finding(
            "LABLINE_DATA", True, f"not set: steel, pneumonia and cifar10 need it (see {PROJECT / 'README.md'})"
        )


def _registry(repair: bool) -> Iterator[Finding]:
    """Whether stages, aliases and the ledger agree, for everything that is registered."""
    from mlflow.exceptions import MlflowException

    from flows.inspection import registered_names

    try:
        load_environment()
        for name in sorted(registered_names()):
            yield from _registered(name, repair)
    except LablineError:
        return  # the storage root is to blame, and was reported
    except MlflowException as error:
        yield Finding("registry", False, str(error).splitlines()[0], "see the MLflow server above")


def _registered(name: str, repair: bool) -> Iterator[Finding]:
    from tasks.registry import alone, open_registry

    registry = open_registry(name)
    subject = f"registry: {name}"
    with alone(name, wait=False) as mine:
        if not mine:
            yield Finding(subject, True, "a promotion is going on")
            return
        wrong = registry.reconcile() if repair else registry.disagreements()
    if wrong and repair:
        yield Finding(subject, True, "mended: " + "; ".join(wrong))
    elif wrong:
        yield Finding(subject, False, "; ".join(wrong), "labline doctor --repair")
    else:
        yield Finding(subject, True, "stages, aliases and history agree")
    position = registry.ledger.tampered(name)
    if position is not None:
        advice = f"restore {registry.ledger.address} from a backup; the registry itself is as it was"
        yield Finding(f"history: {name}", False, f"entry {position} is not what was written", advice)
