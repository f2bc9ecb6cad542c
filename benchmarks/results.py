"""What was measured: one JSON file a benchmark in `results/`, and RESULTS.md, a page made of all of them.

A benchmark that is run replaces its own file alone, so the page always shows the latest run of each, whichever
machine and day that was of; the section says which.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.catalogue import Entry

PAGE = "RESULTS.md"
PACKAGES = ("labline", "torch", "torchvision", "numpy", "onnxruntime")
ABOUT = """# Measured, side by side

Made by `python -m benchmarks [NAME …]`, which replaces the section of each benchmark that it runs and keeps the
others; the figures are in [results/](results), one JSON file a benchmark. Both sides of a comparison were measured in
the same run, on the same machine, in turns; figures are medians, with the lowest and the highest where they are
given. `load` is what the machine was doing besides when a benchmark began: 1 is one core busy.
"""


def keep(result: Mapping[str, Any], shown: str, folder: Path) -> None:
    """Write a result, with its table as `shown` to people, to `folder`/results/NAME.json."""
    results = folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    content = {**result, "table": shown.split("\n")}
    (results / f"{result['name']}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_page(folder: Path, entries: Mapping[str, Entry]) -> Path:
    """Make `folder`/RESULTS.md of the results of the known benchmarks in `folder`/results."""
    kept = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (folder / "results").glob("*.json")}
    shown = [(entry, kept[name]) for name, entry in entries.items() if name in kept]
    missing = [f"`{name}`" for name in entries if name not in kept]
    sections = [ABOUT, _overview(shown), *(_section(entry, result) for entry, result in shown)]
    if missing:
        sections.append(f"Not measured yet: {', '.join(missing)}.\n")
    page = folder / PAGE
    page.write_text("\n".join(sections), encoding="utf-8")
    return page


def circumstances(result: Mapping[str, Any]) -> dict[str, Any]:
    """The day, the machine and the versions, those that the benchmark names included.

    `load_average` is of the last minute, in busy cores.
    """
    versions = {name: found for name in PACKAGES if (found := _installed(name))}
    return {
        "measured": time.strftime("%Y-%m-%d"),
        "machine": machine() | dict(result.get("machine", {})),
        "versions": versions | dict(result.get("versions", {})),
    }


def machine() -> dict[str, Any]:
    """Processor, cores, threads of torch, load and system."""
    import torch

    return {
        "processor": torch.cpu.get_capabilities().get("cpu_name", platform.processor()) or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
    }


def _overview(shown: Sequence[tuple[Entry, Mapping[str, Any]]]) -> str:
    lines = ["| benchmark | what | measured |", "| --- | --- | --- |"]
    lines += [
        f"| [{entry.name}](#{entry.name}) | {entry.headline} | {result.get('measured', '')} |"
        for entry, result in shown
    ]
    return "\n".join(lines) + "\n"


def _section(entry: Entry, result: Mapping[str, Any]) -> str:
    on = result.get("machine", {})
    gpu = f", {on['gpu']}" if on.get("gpu") else ""
    versions = ", ".join(f"{name} {number}" for name, number in result.get("versions", {}).items())
    where = (
        f"{result.get('measured', '')}; {on.get('cores', '?')} cores, {on.get('processor', '?')}{gpu}, "
        f"load {on.get('load_average', 0):.1f}; {versions}"
    )
    table = "\n".join(result.get("table", []))
    return f"## {entry.name}\n\n{entry.purpose}\n\n```\n{table}\n```\n{where}\n"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
