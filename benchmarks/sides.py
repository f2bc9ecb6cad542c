"""The servers of the serving benchmark: how each is started, and the ways it documents of asking it."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from benchmarks.load import Reads, Target, drive, named, request
from benchmarks.packaged import NAME, PROBABILITIES
from benchmarks.rivals.environments import environment
from labline.errors import LablineError

RIVALS = Path(__file__).parent / "rivals"
KEY = "the-key-of-the-benchmark"
READY_SECONDS = 120
IDLE_SHARE = 0.05  # of one core
SETTLE_SECONDS = 30.0
LITSERVE_BATCHING = (16, 0.002)  # requests and seconds
RAW, JSON = "application/octet-stream", "application/json"
PARQUET = "application/vnd.apache.parquet"

Images = npt.NDArray[np.uint8]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Way:
    """A documented way of asking: whole requests, one an image, and how the answer is read."""

    name: str
    requests: Sequence[bytes]
    read: Reads


@dataclass(frozen=True)
class Side:
    """A server to be started, `{port}` standing for its port in the command, and the ways of asking it."""

    name: str
    command: Sequence[str]
    ways: Sequence[Way]
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """A running side, at the head of a process group of its own."""

    side: Side
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def target(self, way: Way, expected: npt.NDArray[np.float32]) -> Target:
        """What the load generator drives."""
        return Target(self.port, way.requests, expected.tolist(), way.read)

    def cpu_seconds(self) -> float:
        """Processor time that the server and its children have used so far."""
        total = 0.0
        for process in self._processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def settle(self) -> float:
        """Wait until the server idles, as one does that still writes down what it answered; returns the seconds.

        At most SETTLE_SECONDS.
        """
        started = time.perf_counter()
        while True:
            before = self.cpu_seconds()
            time.sleep(0.3)
            waited = time.perf_counter() - started
            if self.cpu_seconds() - before < 0.3 * IDLE_SHARE or waited > SETTLE_SECONDS:
                return max(0.0, waited - 0.3)

    def _processes(self) -> list[psutil.Process]:
        try:
            leader = psutil.Process(self.process.pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def labline_side(images_NHWC: Images, registry: Mapping[str, str]) -> Side:
    """`python -m serving`: raw pixels, with a key asked for, metrics counted and every prediction stored."""
    command = [sys.executable, "-m", "serving", NAME, "--port", "{port}", "--workers", "1", "--threads", "1"]
    asked = [request("/predict", image.tobytes(), RAW, {"Authorization": f"Bearer {KEY}"}) for image in images_NHWC]
    return Side("labline", command, [Way("raw pixels", asked, _recorded)], {**registry, "LABLINE_SERVING_KEY": KEY})


def mlflow_side(images_NHWC: Images, folder: Path) -> Side:
    """`mlflow models serve` in labline's own environment: JSON in two spellings, and Parquet."""
    bin_folder = Path(sys.executable).parent
    command = [str(bin_folder / "mlflow"), "models", "serve", "--model-uri", str(folder), "--env-manager", "local"]
    command += ["--workers", "1", "--host", "127.0.0.1", "--port", "{port}"]
    ways = [
        Way("JSON inputs", _invocations(images_NHWC, lambda image: {"inputs": image[np.newaxis].tolist()}), _first),
        Way("JSON dataframe_split", _invocations(images_NHWC, _dataframe_split), _first),
        Way("Parquet", [request("/invocations", _parquet(i), PARQUET) for i in images_NHWC], _first),
    ]
    variables = {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}  # it starts `uvicorn` by its name
    return Side("mlflow", command, ways, variables | {"MLFLOW_DISABLE_TELEMETRY": "true"})


def litserve_sides(images_NHWC: Images, model: Path) -> list[Side]:
    """LitServe with base64 in JSON, with and without its batching."""
    python, script = environment("litserve") / "python", RIVALS / "litserve_api.py"
    bodies = [_compact({"image": base64.b64encode(image.tobytes()).decode()}) for image in images_NHWC]
    asked = [request("/predict", body, JSON) for body in bodies]
    sides = []
    for batch, timeout in ((1, 0.0), LITSERVE_BATCHING):
        name = (
            f"base64 in JSON, batches of {batch} within {timeout:g} s" if batch > 1 else "base64 in JSON, no batching"
        )
        command = [str(python), str(script), str(model), "{port}", str(batch), str(timeout)]
        sides.append(Side("litserve", command, [Way(name, asked, named(PROBABILITIES))]))
    return sides


def bentoml_side(images_NHWC: Images, model: Path) -> Side:
    """BentoML with its adaptive batching of JSON arrays, with single ones, and with raw pixels as a file."""
    command = [str(environment("bentoml") / "bentoml"), "serve", "bentoml_service:Classifier"]
    command += ["--working-dir", str(RIVALS), "--host", "127.0.0.1", "--port", "{port}"]
    bodies = [_compact({"images": image[np.newaxis].tolist()}) for image in images_NHWC]
    ways = [
        Way("JSON array, batchable", [request("/batched", body, JSON) for body in bodies], _only_row),
        Way("JSON array, async", [request("/array", body, JSON) for body in bodies], _only_row),
        Way("file, async", [request("/file", image.tobytes(), RAW) for image in images_NHWC], _only_row),
    ]
    variables = {"BENCHMARK_MODEL": str(model), "BENTOML_DO_NOT_TRACK": "true"}
    return Side("bentoml", command, ways, variables)


def constant_side(length: int) -> Side:
    """A server that does nothing, for requests of `length` bytes."""
    command = [sys.executable, str(RIVALS / "constant_answer.py"), "{port}", str(length)]
    return Side("constant answer", command, [Way("any bytes", [b"x" * length], named(PROBABILITIES))])


def start(side: Side, folder: Path) -> Server:
    """Start a server on a free port of loopback; what it says goes to a log in `folder`."""
    port = _free_port()
    command = [part.replace("{port}", str(port)) for part in side.command]
    path = folder / f"{side.name}-{port}.log"
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **side.variables}
    with path.open("wb") as output:
        process = subprocess.Popen(
            command, env=variables, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
        )
    return Server(side, port, process, path)


def wait_until_ready(server: Server, expected: npt.NDArray[np.float32]) -> None:
    """Wait for the first right answer; raises LablineError where the server ends, or none comes in time."""
    deadline = time.monotonic() + READY_SECONDS
    said = "nothing"
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise LablineError(
                f"{server.side.name} ended with code {server.process.returncode}: {server.log.read_text()[-1500:]}"
            )
        try:
            load = drive(server.target(server.side.ways[0], expected), 1, 0.05)
        except LablineError as error:
            said = str(error)
        else:
            if not load.errors:
                return
            said = load.first_error
        time.sleep(0.3)
    raise LablineError(f"{server.side.name} did not answer rightly within {READY_SECONDS} s: {said}")


def _recorded(body: bytes) -> Sequence[float]:
    """labline's answer, which must have been recorded."""
    answer: dict[str, Any] = json.loads(body)
    if not answer.get("recorded", True):
        raise ValueError("the prediction was not recorded")
    return list(answer[PROBABILITIES].values())


def _first(body: bytes) -> Sequence[float]:
    """MLflow's answer: every output, of every image that was sent."""
    row: Sequence[float] = json.loads(body)["predictions"][PROBABILITIES][0]
    return row


def _only_row(body: bytes) -> Sequence[float]:
    row: Sequence[float] = json.loads(body)[0]
    return row


def _invocations(images_NHWC: Images, spelled: Callable[[Images], object]) -> list[bytes]:
    return [request("/invocations", _compact(spelled(image)), JSON) for image in images_NHWC]


def _dataframe_split(image: Images) -> object:
    return {"dataframe_split": {"columns": ["images"], "data": [[image.ravel().tolist()]]}}


def _parquet(image: Images) -> bytes:
    import pyarrow
    from pyarrow import parquet

    body = io.BytesIO()
    parquet.write_table(pyarrow.table({"images": [image.ravel()]}), body, compression="none")
    return body.getvalue()


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
