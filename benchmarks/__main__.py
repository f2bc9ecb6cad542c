"""`python -m benchmarks [NAME …] [--json]` runs the named benchmarks, or all; `--list` lists them.

A benchmark is a file of this folder: its docstring says what is compared, its `measure()` returns a dict with `name`,
`ratio`, `ours` and `theirs`, and its `table(result)`, if it has one, shows that to a person; `MINUTES`, if it has that,
says how long it takes. Progress goes to standard error; with `--json` standard output ends in one line a benchmark,
its result as a JSON object, together with the machine and the versions. Each result is kept in `results/`, and
RESULTS.md is made anew of all that are kept.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.catalogue import Entry, catalogue
from benchmarks.results import circumstances, keep, write_page
from labline.errors import LablineError, nearest

FOLDER = Path(__file__).parent

log = logging.getLogger("benchmarks")


def main() -> int:
    """The exit code: 0 measured, 1 failed for a known reason, 2 bad input; the highest of those that were met."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    entries = catalogue()
    arguments = _parse(entries)
    if arguments.list:
        print("\n".join(f"{name:18} {entry.minutes:4g} min  {entry.headline}" for name, entry in entries.items()))
        return 0
    for name in arguments.names:
        if name not in entries:
            print(f"no benchmark named {name!r}; {nearest(name, entries)}", file=sys.stderr)
            return 2
    chosen = [entries[name] for name in dict.fromkeys(arguments.names or entries)]
    if len(chosen) > 1:
        minutes = sum(entry.minutes for entry in chosen)
        log.info("%s: about %.0f minutes", ", ".join(entry.name for entry in chosen), minutes)
    codes = [_run(entry, arguments.json, arguments.folder) for entry in chosen]
    if 0 in codes:
        log.info("%s is written", write_page(arguments.folder, entries))
    return max(codes)


def _run(entry: Entry, as_json: bool, folder: Path) -> int:
    """Measure, print and keep one; a failure is told and does not end the others."""
    try:
        benchmark = importlib.import_module(f"benchmarks.{entry.name}")
        result: dict[str, Any] = benchmark.measure()
    except LablineError as error:
        print(f"{entry.name}: {error}", file=sys.stderr)
        return error.exit_code
    result |= circumstances(result)
    shown = benchmark.table(result) if hasattr(benchmark, "table") else json.dumps(result, indent=2)
    keep(result, shown, folder)
    print(json.dumps(result) if as_json else shown, flush=True)
    return 0


def _parse(entries: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side measurements.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(entries)}; none runs all")
    parser.add_argument("--list", action="store_true", help="list the benchmarks, with the minutes each takes")
    parser.add_argument("--json", action="store_true", help="each result as one JSON object on a line at the end")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where results/ and RESULTS.md are kept (default: benchmarks)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
