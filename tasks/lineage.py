"""Lineage: what a model was made by, as facts that a later machine can hold against its own.

`facts` are taken where a model is trained, go with its version as `environment.json`, and `differences` says what is
not the same any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from labline.series.usecase import SeriesUseCase
from labline.usecase import ImageUseCase
from tasks.environment import PROJECT
from tasks.stage import file_digest, module_digest

Trained = ImageUseCase | SeriesUseCase  # whatever is learned from, by a declared network and training

LOCK = PROJECT / "requirements.lock"
SOURCES = ("labline", "tasks", "flows", "expectations")
PACKAGES = (
    "torch", "torchvision", "torch-pruning", "onnx", "onnxruntime", "onnxscript", "safetensors", "numpy", "scipy",
    "pandas", "pyarrow", "pillow", "scikit-learn", "cleanlab", "arch", "great-expectations", "mlflow", "prefect",
)  # fmt: skip
UNKNOWN = "unknown"
NAMES_ONLY = {"code.commit", "lock.sha256"}  # these name what others pin down: the sources, the installed packages


def facts(declaration: Trained) -> dict[str, str]:
    """Code, packages and machine, as the declared training meets them in this process.

    code.commit (see `commit`), code.sha256 (of the sources), lock.sha256 (of requirements.lock), the sha256 of every
    module of the user's own, python and one version a package; processor, capability (the widest vector instructions
    that torch uses), threads (of torch), device and precision. What cannot be found out is "unknown".
    """
    import torch

    from labline.training import choose_device, choose_precision

    training = declaration.training
    device = choose_device(training.device)
    return {
        "code.commit": commit(),
        "code.sha256": _sources_digest(),
        "lock.sha256": file_digest(LOCK),
        **{reference: module_digest(reference) or UNKNOWN for reference in own_references(declaration)},
        "python": platform.python_version(),
        **{name: _installed(name) for name in PACKAGES},
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": str(choose_precision(training.precision, device)).removeprefix("torch."),
    }


def own_references(declaration: Trained) -> list[str]:
    """What the declaration takes from the user's own modules, as "module:name"."""
    return [reference for reference in (declaration.data.source, declaration.model.architecture) if ":" in reference]


def write_facts(folder: Path, declaration: Trained) -> None:
    """Leave the facts of now beside the weights in `folder`, for `read_facts`."""
    (folder / "environment.json").write_text(json.dumps(facts(declaration), indent=2))


def read_facts(folder: Path, declaration: Trained) -> dict[str, str]:
    """The facts that training left in its folder, which a cache may have kept since; of now where it left none."""
    path = folder / "environment.json"
    found: dict[str, str] = json.loads(path.read_text()) if path.is_file() else facts(declaration)
    return found


def differences(recorded: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """One sentence for every fact that is not as recorded, and a last one where the same bits cannot be expected.

    Facts that are recorded on one side only are left out: they cannot be compared.
    """
    changed = [name for name in present if name in recorded and recorded[name] != present[name]]
    sentences = [f"{name}: {_short(recorded[name])} in training, {_short(present[name])} here" for name in changed]
    deciding = [name for name in changed if name not in NAMES_ONLY]
    if deciding:
        sentences.append(f"the same bits cannot be expected with another {', '.join(deciding)}; the metrics can")
    return sentences


def commit(project: Path = PROJECT) -> str:
    """The git commit of the sources; "+changes" follows where they differ from it, "unknown" is outside git."""
    top = _git(project, "rev-parse", "--show-toplevel")
    # Installed inside somebody else's repository, the commit would be theirs.
    if top is None or Path(top).resolve() != project.resolve():
        return UNKNOWN
    head = _git(project, "rev-parse", "HEAD")
    if head is None:
        return UNKNOWN
    present = [name for name in (*SOURCES, LOCK.name) if (project / name).exists()]
    return head + ("+changes" if _git(project, "status", "--porcelain", "--", *present) else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers; None where there is no git, no repository or no commit."""
    # A git hook exports where its own repository lies, which would win over the folder.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], env=environment, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _sources_digest() -> str:
    """sha256 over path and content of every source file: the same code under another commit is the same."""
    digest = hashlib.sha256()
    files = [path for name in SOURCES for path in (PROJECT / name).rglob("*") if path.suffix in (".py", ".json")]
    for path in sorted(files):
        digest.update(f"{path.relative_to(PROJECT)}\0{file_digest(path)}\0".encode())
    return digest.hexdigest()


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def _processor() -> str:
    """The processor's name with family and model, since a virtual machine may hide the rest."""
    described = Path("/proc/cpuinfo")
    if not described.is_file():
        return platform.processor() or platform.machine() or UNKNOWN
    lines = (line.partition(":") for line in described.read_text().split("\n\n")[0].splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines}
    name = found.get("model name") or platform.machine()
    number = [f"{part} {found[part]}" for part in ("cpu family", "model") if part in found]
    return f"{name} ({', '.join(number)})" if number else name


def _short(value: str) -> str:
    """A digest or commit by its first twelve digits; anything else as it is."""
    name, plus, changes = value.partition("+")
    return f"{name[:12]}{plus}{changes}" if len(name) in (40, 64) and name.isalnum() else value
