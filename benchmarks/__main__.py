"""`python -m benchmarks` lists the benchmarks, `python -m benchmarks NAME [--json]` runs one.

A benchmark is a file of this folder: its docstring says what is compared, its `measure()` returns a dict
with `name`, `ratio`, `ours` and `theirs`, and its `table(result)`, if it has one, shows that to a person. Progress
goes to standard error; with `--json` the last line of standard output is the result as one JSON object, together
with the machine and the versions.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import sys
from importlib.metadata import version
from typing import Any

from labline.errors import LablineError, nearest

NAMES = ("cifar10", "drift", "serving", "volatility_regime")
PACKAGES = ("labline", "torch", "torchvision", "numpy", "onnxruntime")


def main() -> int:
    """The exit code: 0 measured, 1 failed for a known reason, 2 bad input."""
    arguments = _parse()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if arguments.name is None:
        for name in NAMES:
            print(f"{name:18} {_first_line(name)}")
        return 0
    if arguments.name not in NAMES:
        print(f"no benchmark named {arguments.name!r}; {nearest(arguments.name, NAMES)}", file=sys.stderr)
        return 2
    try:
        benchmark = importlib.import_module(f"benchmarks.{arguments.name}")
        result = benchmark.measure()
    except LablineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    versions = {package: version(package) for package in PACKAGES} | result.get("versions", {})
    result |= {"machine": _machine(), "versions": versions}
    if not arguments.json and hasattr(benchmark, "table"):
        print(benchmark.table(result))
    else:
        print(json.dumps(result) if arguments.json else json.dumps(result, indent=2))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side measurements.")
    parser.add_argument("name", nargs="?", help=f"one of: {', '.join(NAMES)}; none lists them")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object on the last line")
    return parser.parse_args()


def _first_line(name: str) -> str:
    return (importlib.import_module(f"benchmarks.{name}").__doc__ or "").splitlines()[0]


def _machine() -> dict[str, Any]:
    import torch

    return {
        "processor": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
    }


if __name__ == "__main__":
    sys.exit(main())
