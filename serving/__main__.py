"""The service of one use case: python -m serving USECASE, started by `labline serve` with mlflow.env loaded.

This process answers no request. It opens the socket, follows the registry, and keeps the workers that answer.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from labline.errors import BadInput, LablineError, nearest
from labline.usecase import NAME
from serving.assignment import Assignment, Stage
from serving.draining import Drainer
from serving.following import POLL_SECONDS, Follower, Wanted
from serving.settings import KEY, KEY_FILE, Settings, configured_key
from serving.supervisor import Workers, listen
from serving.worker import log_to_stderr

STAGES = ("production", "staging")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 after Ctrl-C, 1 where it cannot go on, 2 for bad input."""
    asked = _parser().parse_args(arguments)
    log_to_stderr()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # nohup means it
            signal.signal(ending, signal.default_int_handler)  # a closed terminal ends the service as Ctrl-C does
    try:
        _serve(asked)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    except LablineError as error:
        print(f"error: {error}", file=sys.stderr)
        if asked.json:
            print(json.dumps({"error": str(error), "exit_code": error.exit_code}), flush=True)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve a registered version over HTTP.")
    parser.add_argument("usecase")
    parser.add_argument("--stage", default="production", help="production or staging")
    parser.add_argument("--version", help="serve this one, whatever its stage, and do not follow the registry")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime in each worker")
    parser.add_argument("--canary", type=float, help="default: as the version in Staging declares")
    parser.add_argument("--shadow", type=float, help="default: as the version in Staging declares")
    parser.add_argument("--poll", type=float, default=POLL_SECONDS, help="seconds between two looks at the registry")
    parser.add_argument("--json", action="store_true", help="say in one JSON object where the service is")
    return parser


def _serve(asked: argparse.Namespace) -> None:
    """From the arguments to a running service, until it is interrupted."""
    _check(asked)
    key = configured_key()
    if not key and not _is_loopback(asked.host):
        raise BadInput(
            f"{asked.host} can be reached from other machines, and no key is set: set {KEY}, or {KEY_FILE} to a file "
            "with the key in it, which clients then send; or serve on 127.0.0.1"
        )
    if "://" in os.environ.get("LABLINE_STORE", ""):
        raise BadInput("LABLINE_STORE must be a folder of this machine here: labline serve makes one of s3://…")
    listening = listen(asked.host, asked.port)
    port = listening.getsockname()[1]
    store = Path(os.environ.get("LABLINE_STORE", ".labline")).resolve()
    folder = store / "serving" / asked.usecase
    instance = folder / str(port)
    settings = Settings(
        usecase=asked.usecase,
        store=store,
        folder=instance,
        feedback=os.environ.get("LABLINE_FEEDBACK", f"sqlite:///{store}/feedback.db"),
        key=key,
        threads=asked.threads,
    )
    with _only_one(instance, port):
        try:
            _run(asked, Follower(_wanted(asked), folder, instance, asked.poll), settings, listening)
        finally:
            if asked.port == 0:  # nobody will come back to this port
                shutil.rmtree(instance, ignore_errors=True)


def _run(asked: argparse.Namespace, follower: Follower, settings: Settings, listening: socket.socket) -> None:
    """Assign what stands, start the workers, and look after both until it is interrupted."""
    assignment = follower.begin()
    _empty(settings.metrics)
    names = [f"{settings.folder.name}-{number}" for number in range(asked.workers)]
    # Begun before the workers' own, which then stand by: emptying the journal would hold up their answers.
    drainer = Drainer(settings.feedback, settings.journal)
    workers = Workers(listening, names, _environment(settings), grace_seconds=settings.shutdown_timeout + 5)
    try:
        workers.start()
        threading.Thread(target=follower.follow, name="follower", daemon=True).start()
        _say_where(asked, listening, assignment)
        while True:
            workers.tend()
    finally:
        follower.end()
        workers.stop()
        drainer.close()


def _check(asked: argparse.Namespace) -> None:
    if not re.fullmatch(NAME, asked.usecase):
        raise BadInput(
            f"{asked.usecase!r} is no name of a registered use case: lowercase letters, digits and dashes "
            "were expected; labline list shows them"
        )
    if asked.stage not in STAGES:
        raise BadInput(f"--stage {asked.stage}: no such stage; {nearest(asked.stage, STAGES)}")
    if asked.version is not None and not asked.version.isdecimal():
        raise BadInput(f"--version {asked.version}: a number was expected; labline history {asked.usecase} has them")
    for option in ("workers", "threads"):
        if getattr(asked, option) is not None and getattr(asked, option) < 1:
            raise BadInput(f"--{option} {getattr(asked, option)}: at least 1 was expected")
    for option in ("canary", "shadow"):
        share = getattr(asked, option)
        if share is not None and not 0 <= share <= 1:
            raise BadInput(f"--{option} {share:g}: a share of the requests was expected, 0 to 1")
        if share and (asked.stage != "production" or asked.version is not None):
            raise BadInput(f"--{option}: only a service of Production has a version in Staging beside it")


def _wanted(asked: argparse.Namespace) -> Wanted:
    stage: Stage = "pinned" if asked.version is not None else asked.stage
    return Wanted(asked.usecase, stage, asked.version, asked.canary, asked.shadow)


def _environment(settings: Settings) -> Callable[[str], Mapping[str, str]]:
    """The variables of a worker: no registry's address, and no password of it."""

    def of(name: str) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_"))}
        own = {"PROMETHEUS_MULTIPROC_DIR": str(settings.metrics)}
        return kept | replace(settings, worker=name).to_environment() | own

    return of


@contextlib.contextmanager
def _only_one(instance: Path, port: int) -> Iterator[None]:
    """Be the only service with this folder: one on the same port of another address would overwrite the assignment."""
    instance.mkdir(parents=True, exist_ok=True)
    lock = FileLock(instance / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(
            f"another service of this use case is on port {port} of another address: choose another with --port"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _empty(metrics: Path) -> None:
    """What the workers of an earlier service counted."""
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir(parents=True)


def _say_where(asked: argparse.Namespace, listening: socket.socket, assignment: Assignment) -> None:
    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    version = assignment.production.version if assignment.production else ""
    if asked.json:
        where = {"usecase": asked.usecase, "version": version, "stage": assignment.stage, "address": address}
        print(json.dumps(where | {"docs": f"{address}/docs", "pid": os.getpid()}), flush=True)
        return
    stage = "named" if assignment.stage == "pinned" else f"in {assignment.stage.capitalize()}"
    print(f"{asked.usecase}  version {version}, {stage}", f"predict  {address}/predict", sep="\n")
    print(f"docs     {address}/docs", "Ctrl-C stops it.", sep="\n", flush=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    raise SystemExit(main())
