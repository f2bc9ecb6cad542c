"""`labline replay`: what production would ask and later tell a running service, with the truth known."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labline.errors import BadInput, LablineError
from labline.usecase import ImageUseCase

if TYPE_CHECKING:
    from flows.replaying import Outcome, Plan
    from labline.replay import Sample
    from labline.series.usecase import SeriesUseCase
    from tasks.version import Version

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
RENDERED_COUNT = 1000  # of images that are made on the spot, where no --count and no --duration says otherwise
LARGEST_SEED = 1_000_000_000
NO_END = 2**62


@dataclasses.dataclass(frozen=True)
class Stream:
    """What is sent, how many of it where nobody says otherwise, and where it comes from, in words."""

    samples: Iterator[Sample]
    usual: int
    source: str


def run_replay(usecase: str, options: Mapping[str, Any], json: bool) -> None:
    """Send, tell the labels, and close with what came of it; `options` are those of the command, by name.

    Raises BadInput for what cannot be sent, LablineError where the service does not answer or answers to nothing.
    """
    from flows.replaying import replay
    from tasks.environment import load_environment
    from tasks.staged import staged_version
    from tasks.version import fetch_version

    load_environment()  # it brings the service's key too
    seed = options["seed"] if options["seed"] is not None else int(time.time()) % LARGEST_SEED
    plan = _plan(options, seed)
    stream = _stream(fetch_version(*staged_version(usecase)), options, seed)
    if not options["count"] and math.isinf(plan.seconds):
        plan = dataclasses.replace(plan, most=stream.usual)

    def make(described: dict[str, Any]) -> Iterator[Sample]:
        if described["usecase"] != usecase:
            raise BadInput(f"--url {plan.url} serves {described['usecase']}, not {usecase}")
        return stream.samples

    with _progress(plan.most, plan.seconds) as on_progress:
        outcome = asyncio.run(replay(make, plan, on_progress))
    summary = {"usecase": usecase, "url": plan.url, "source": stream.source, "seed": seed, **outcome.summary()}
    _close(summary, json)
    if outcome.interrupted:
        raise SystemExit(130)
    if outcome.sent and not outcome.answered:
        raise LablineError(f"none of {outcome.sent:,} samples was answered: {next(iter(outcome.refused), 'no reason')}")


def _plan(options: Mapping[str, Any], seed: int) -> Plan:
    """How to send, from the options of the command; without --count there is no end to it yet."""
    from flows.replaying import Plan
    from labline.replay import Labelling

    if not options["url"].startswith(("http://", "https://")):
        raise BadInput(f"--url {options['url']}: expected an address such as http://127.0.0.1:8080")
    return Plan(
        url=options["url"].rstrip("/"),
        rate=parse_rate(options["rate"]),
        most=options["count"] or NO_END,
        seconds=options["duration"] or math.inf,
        key=service_key(options["key_file"]),
        concurrency=options["concurrency"],
        label_delay=options["label_delay"],
        labelling=Labelling(options["label_share"], options["wrong_labels"]),
        seed=seed,
        patience=options["patience"],
    )


def parse_rate(written: str) -> float:
    """Requests a second: `20`, `20/s`, `1200/m`, or `max`, infinite. Raises BadInput for anything else."""
    if written == "max":
        return math.inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/([smh]))?", written)
    if found is None or not float(found[1]):
        raise BadInput(f"--rate {written}: requests a second were expected, such as 20/s, 90/m or max")
    return float(found[1]) / SECONDS[found[2] or "s"]


def _stream(version: Version, options: Mapping[str, Any], seed: int) -> Stream:
    declaration = version.declaration
    if not isinstance(declaration, ImageUseCase):
        return _series(version, declaration, options)
    if options["since"] is not None:
        raise BadInput("--from is for a series, whose rows have dates; --drift changes images")
    if declaration.data.source == "surfaces":
        return _rendered(declaration, options, seed)
    return _held_out(version, options, seed)


def _rendered(declaration: ImageUseCase, options: Mapping[str, Any], seed: int) -> Stream:
    from labline.data.surfaces import CLASSES
    from labline.drifting import RENDERED, parse_drift
    from labline.replay import rendered

    drift = parse_drift(options["drift"], RENDERED, CLASSES, options["drift_ramp"])
    samples = rendered(declaration.data, drift, seed, options["form"])
    return Stream(samples, RENDERED_COUNT, "rendered anew")


def _held_out(version: Version, options: Mapping[str, Any], seed: int) -> Stream:
    from labline.drifting import PHOTOGRAPHED, check_photographed, parse_drift
    from labline.replay import held_out
    from tasks.version import open_test_rows

    data = open_test_rows(version)
    drift = parse_drift(options["drift"], PHOTOGRAPHED, data.labels, options["drift_ramp"])
    check_photographed(drift)
    images_NHWC, _ = data.split("test")
    rows = data.rows("test")
    labels, names = rows["label"].astype(str).tolist(), rows["sample_id"].astype(str).tolist()
    samples = held_out(images_NHWC, labels, names, drift, seed, options["form"])
    return Stream(samples, len(labels), f"test split of version {version.number}")


def _series(version: Version, declaration: SeriesUseCase, options: Mapping[str, Any]) -> Stream:
    from labline.series.replay import later_rows, moments, parse_day
    from tasks.version import open_test_series

    if options["drift"]:
        raise BadInput("--drift changes images; the drift of a series is in its dates: --from 2008-09-01")
    if options["wrong_labels"] and declaration.model.head != "classes":
        raise BadInput("--wrong-labels exchanges classes, and this version forecasts numbers; leave it out")
    since = parse_day(options["since"]) if options["since"] is not None else None
    rows = open_test_series(version).manifest
    samples = later_rows(rows, declaration, since)
    source = f"rows from {since} on" if since else f"test split of version {version.number}"
    return Stream(samples, moments(rows, declaration, since), source)


def service_key(file: Path | None) -> str:
    """The key that the service asks for: of the file, of the one LABLINE_SERVING_KEY_FILE names, or of the variable."""
    named = os.environ.get("LABLINE_SERVING_KEY_FILE") if "LABLINE_SERVING_KEY" not in os.environ else None
    path = file or (Path(named) if named else None)
    try:
        key = path.read_text() if path else os.environ.get("LABLINE_SERVING_KEY", "")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--key-file {path}: a text file with the key alone was expected ({error})") from error
    if not key.isascii():
        raise BadInput("the key of the service must be ASCII: the one that labline serve was started with was expected")
    return key.strip()


@contextmanager
def _progress(most: int, seconds: float) -> Iterator[Callable[[Outcome], None]]:
    """A bar on standard error while a replay runs: of samples, or of seconds where those end it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from flows.console import progress_console

    columns = (TextColumn("replay"), BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.fields[text]}"))
    begun = time.monotonic()
    with Progress(*columns, console=progress_console, transient=True) as bar:
        task = bar.add_task("replay", total=most if math.isinf(seconds) else seconds, text="")

        def show(outcome: Outcome) -> None:
            done = outcome.sent if math.isinf(seconds) else time.monotonic() - begun
            text = f"{outcome.sent:,} sent, {outcome.labels_accepted:,} labels, {outcome.labels_pending:,} to come"
            bar.update(task, completed=done, text=text)

        yield show


def _close(summary: dict[str, Any], json: bool) -> None:
    from rich.console import Console

    from flows.console import print_json_line

    Console(stderr=json, highlight=False, markup=False, soft_wrap=True).print(told(summary))
    if json:
        print_json_line(summary)


def told(summary: Mapping[str, Any]) -> str:
    """The summary in words."""
    answered = ", ".join(f"{figures['answered']:,} by version {name}" for name, figures in summary["versions"].items())
    seconds = summary["seconds"]
    lines = [
        f"{summary['sent']:,} samples sent in {seconds:.1f} s ({summary['source']}, seed {summary['seed']}): "
        f"{summary['answered']:,} answered{f' ({answered})' if answered else ''}, {summary['retries']:,} tries more",
        f"p50 {summary['latency_ms_p50']:.1f} ms, p99 {summary['latency_ms_p99']:.1f} ms",
    ]
    for name, figures in summary["versions"].items():
        if "accuracy" in figures:
            lines.append(f"version {name}: accuracy {figures['accuracy']:.4f} by the true labels")
        if "mean_squared_error" in figures:
            lines.append(f"version {name}: mean squared error {figures['mean_squared_error']:.4f} by realised targets")
    lines.append(
        f"{summary['labels_accepted']:,} labels accepted, {summary['labels_pending']:,} not due or not sent yet"
    )
    for what in ("refusals", "label_refusals"):
        lines += [f"refused {count:,} times: {why}" for why, count in summary[what].items()]
    if summary["unrecorded"]:
        lines.append(f"{summary['unrecorded']:,} answers were not recorded by the service")
    return "\n".join([*lines, "interrupted"] if summary["interrupted"] else lines)
