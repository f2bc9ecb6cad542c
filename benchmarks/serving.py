"""Requests a second and latency of `labline serve` beside MLflow's, LitServe's and BentoML's servers of the same ONNX.

All run the same graph (281,470 parameters, 32 x 32 x 3 bytes in, ten probabilities out) with one ONNX Runtime thread
and one server worker, whatever helper processes that brings along. labline asks for a key, counts its metrics and
stores every prediction with its image and its embedding; the rivals do none of this, and their graph has no output
beside the probabilities. Each rival is asked in the fastest of its documented ways, which trials find for every
number of requests in flight. All servers stay up, idle, while one is driven; the sides take turns, and a turn waits
until the one before has written down what it answered. One answer in 64 is compared with ONNX Runtime's own.

Of two cores the load generator needs a part. LitServe's one worker is two busy processes, one for HTTP and one for
the model, the others' is one: `cpu_ms_per_request` has what each costs, on however many cores.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import packaged
from benchmarks.load import Load, drive
from benchmarks.rivals.environments import RIVALS
from benchmarks.sides import (
    Server,
    Side,
    Way,
    bentoml_side,
    constant_side,
    labline_side,
    litserve_sides,
    mlflow_side,
    start,
    wait_until_ready,
)
from flows.processes import stop
from labline.errors import LablineError

CONCURRENCIES = (1, 16, 64)
COMPARED_AT = 16
ROUNDS = 3
SECONDS = 3.0
TRIAL_SECONDS = 1.0
WARM_UP_SECONDS = 0.5

Expected = npt.NDArray[np.float32]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contender:
    """One party of the comparison: for each number of requests in flight the server and the way that were fastest.

    `trials` are the requests a second that decided it, by way and number.
    """

    name: str
    fastest: dict[int, tuple[Server, Way]]
    trials: dict[str, dict[int, float]]


@dataclass(frozen=True)
class Turn:
    """One run of the load generator: what it saw, and the server's processor time a request, in milliseconds."""

    load: Load
    cpu_ms: float
    settled_seconds: float


def measure() -> dict[str, Any]:
    """All four servers; `ratio` is labline's requests a second over MLflow's with 16 in flight.

    Raises LablineError where a server does not come up, or labline answers anything wrongly.
    """
    with tempfile.TemporaryDirectory(prefix="labline-benchmark-") as directory:
        scratch = Path(directory)
        log.info("exporting and registering the model")
        model = packaged.export(scratch / "model.onnx")
        images = packaged.images()
        expected = packaged.probabilities(model, images)
        sides = _sides(model, images, scratch)
        ceiling = _ceiling(sides[0], scratch)
        with ExitStack() as running:
            contenders = _start(sides, expected, scratch, running)
            turns = _rounds(contenders, expected)
        size = packaged.parameters(model)
    return _result(contenders, turns) | {
        "load_generator": {"per_second": ceiling.per_second, "p99_ms": ceiling.p99_ms, "concurrency": COMPARED_AT},
        "settings": {"rounds": ROUNDS, "seconds": SECONDS, "workers": 1, "threads": 1, "parameters": size},
        "versions": {"mlflow": version("mlflow"), **{name: made.split("==")[1] for name, made in RIVALS.items()}},
    }


def table(result: dict[str, Any]) -> str:
    """The result for a person to read."""
    lines = ["in flight  server    requests/s  lowest highest   p50 ms   p99 ms  cpu ms errors"]
    sides = {"labline": result["ours"], **result["theirs"]}
    for concurrency in map(str, CONCURRENCIES):
        for name, side in sides.items():
            seen = side["at"][concurrency]
            lines.append(
                f"{concurrency:>9}  {name:9} {seen['per_second']:10.0f} {seen['lowest']:7.0f} {seen['highest']:7.0f} "
                f"{seen['p50_ms']:8.2f} {seen['p99_ms']:8.2f} {seen['cpu_ms_per_request']:7.2f} {seen['errors']:6}"
            )
    lines += [f"{name} at {COMPARED_AT}: {side['at'][str(COMPARED_AT)]['way']}" for name, side in sides.items()]
    lines.append(
        f"with {COMPARED_AT} in flight labline answers {result['ratio']:.1f} times MLflow's requests a second, "
        f"{result['ratio_litserve']:.1f} times LitServe's, {result['ratio_bentoml']:.1f} times BentoML's; "
        f"the load generator alone reaches {result['load_generator']['per_second']:.0f}"
    )
    return "\n".join(lines)


def _sides(model: Path, images: npt.NDArray[np.uint8], scratch: Path) -> list[Side]:
    """labline first."""
    store = scratch / "store"
    store.mkdir()
    plain = packaged.with_probabilities_alone(model, scratch / "probabilities.onnx")
    return [
        labline_side(images, packaged.register(model, store)),
        mlflow_side(images, packaged.save_for_mlflow(plain, scratch / "mlflow-model")),
        *litserve_sides(images, plain),
        bentoml_side(images, plain),
    ]


def _ceiling(side: Side, scratch: Path) -> Load:
    """What the load generator reaches with requests like those of `side` where the server does nothing."""
    expected = np.ones((1, 1), np.float32)
    server = start(constant_side(len(side.ways[0].requests[0])), scratch)
    try:
        wait_until_ready(server, expected)
        return drive(server.target(server.side.ways[0], expected), COMPARED_AT, TRIAL_SECONDS)
    finally:
        stop({"constant": server.process})


def _start(sides: Sequence[Side], expected: Expected, scratch: Path, running: ExitStack) -> list[Contender]:
    """Start all, find each one's fastest way, and stop the servers that are no one's."""
    servers: dict[str, list[Server]] = {}
    for side in sides:
        server = start(side, scratch)
        running.callback(stop, {side.name: server.process})
        servers.setdefault(side.name, []).append(server)
    for name, several in servers.items():
        for server in several:
            wait_until_ready(server, expected)
        log.info("%s is up", name)
    contenders = [_fastest(several, expected) for several in servers.values()]
    for contender in contenders:
        used = [server for server, _ in contender.fastest.values()]
        stop({str(server.port): server.process for server in servers[contender.name] if server not in used})
    return contenders


def _fastest(servers: Sequence[Server], expected: Expected) -> Contender:
    """The ways with the most requests a second of those that make no error."""
    name = servers[0].side.name
    trials: dict[str, dict[int, float]] = {}
    fastest: dict[int, tuple[Server, Way]] = {}
    first_error = ""
    for server in servers:
        for way in server.side.ways:
            loads = _trial(server, way, expected)
            first_error = first_error or next((load.first_error for load in loads.values() if load.errors), "")
            if any(load.errors for load in loads.values()):
                log.info("%s, %s: left out for its errors", name, way.name)
                continue
            trials[way.name] = {concurrency: load.per_second for concurrency, load in loads.items()}
            log.info("%s, %s: %.0f requests/s", name, way.name, trials[way.name][COMPARED_AT])
            for concurrency, per_second in trials[way.name].items():
                if concurrency not in fastest or per_second > trials[fastest[concurrency][1].name][concurrency]:
                    fastest[concurrency] = server, way
    if not fastest:
        raise LablineError(f"{name} answers in none of its ways rightly: {first_error}")
    return Contender(name, fastest, trials)


def _trial(server: Server, way: Way, expected: Expected) -> dict[int, Load]:
    target = server.target(way, expected)
    drive(target, COMPARED_AT, WARM_UP_SECONDS)
    loads = {concurrency: drive(target, concurrency, TRIAL_SECONDS) for concurrency in CONCURRENCIES}
    server.settle()
    return loads


def _rounds(contenders: Sequence[Contender], expected: Expected) -> dict[tuple[str, int], list[Turn]]:
    """Every contender at every concurrency, taking turns in alternating order."""
    turns: dict[tuple[str, int], list[Turn]] = {}
    for round_number in range(ROUNDS):
        for concurrency in CONCURRENCIES:
            for contender in contenders[:: -1 if round_number % 2 else 1]:
                turn = _turn(contender, concurrency, expected)
                turns.setdefault((contender.name, concurrency), []).append(turn)
                log.info(
                    "round %d of %d, %d in flight, %s: %.0f requests/s, p99 %.1f ms",
                    *(round_number + 1, ROUNDS, concurrency, contender.name, turn.load.per_second, turn.load.p99_ms),
                )
    return turns


def _turn(contender: Contender, concurrency: int, expected: Expected) -> Turn:
    server, way = contender.fastest[concurrency]
    target = server.target(way, expected)
    drive(target, concurrency, WARM_UP_SECONDS)
    server.settle()
    before = server.cpu_seconds()
    load = drive(target, concurrency, SECONDS)
    settled = server.settle()
    if load.errors and contender.name == "labline":
        raise LablineError(f"labline made {load.errors} errors in {load.requests} requests: {load.first_error}")
    return Turn(load, 1e3 * (server.cpu_seconds() - before) / load.requests, settled)


def _result(contenders: Sequence[Contender], turns: dict[tuple[str, int], list[Turn]]) -> dict[str, Any]:
    sides = {contender.name: _summary(contender, turns) for contender in contenders}
    ours = sides.pop("labline")

    def at(side: dict[str, Any]) -> dict[str, Any]:
        seen: dict[str, Any] = side["at"][str(COMPARED_AT)]
        return seen

    ratios = {name: at(ours)["per_second"] / at(side)["per_second"] for name, side in sides.items()}
    return {
        "name": "serving",
        "ratio": ratios["mlflow"],
        "ratio_litserve": ratios["litserve"],
        "ratio_bentoml": ratios["bentoml"],
        "lowest_p99": all(at(ours)["p99_ms"] < at(side)["p99_ms"] for side in sides.values()),
        "ours": ours,
        "theirs": sides,
    }


def _summary(contender: Contender, turns: dict[tuple[str, int], list[Turn]]) -> dict[str, Any]:
    """Medians over the rounds; `lowest` and `highest` are requests a second of single rounds."""
    at = {}
    for concurrency in CONCURRENCIES:
        taken = turns[contender.name, concurrency]
        per_second = [turn.load.per_second for turn in taken]
        at[str(concurrency)] = {
            "way": contender.fastest[concurrency][1].name,
            "per_second": median(per_second),
            "lowest": min(per_second),
            "highest": max(per_second),
            "p50_ms": median(turn.load.p50_ms for turn in taken),
            "p99_ms": median(turn.load.p99_ms for turn in taken),
            "cpu_ms_per_request": median(turn.cpu_ms for turn in taken),
            "settle_seconds": max(turn.settled_seconds for turn in taken),
            "requests": sum(turn.load.requests for turn in taken),
            "checked": sum(turn.load.checked for turn in taken),
            "errors": sum(turn.load.errors for turn in taken),
        }
    return {"at": at, "trials": contender.trials}
