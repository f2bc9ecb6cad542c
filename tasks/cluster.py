"""The Ray cluster that a flow computes on: joined, or started on this machine for as long as it is needed."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from labline.engine import Engine
from labline.errors import BadInput
from labline.sharding import processors

ANSWER_SECONDS = 5.0  # within which the head of a cluster takes a connection
# Of the environment, what the machines of a cluster need to find the same things. What holds a password is not
# handed over, since Ray shows such variables to whoever may look at the cluster: there it is set on the machines.
HANDED_OVER = (
    "LABLINE_STORE",
    "LABLINE_STORE_URL",
    "LABLINE_CACHE",
    "LABLINE_DATA",
    "LABLINE_LEDGER",
    "LABLINE_TUNING",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "PREFECT_API_URL",
    "OMP_WAIT_POLICY",
)


@contextmanager
def joined(engine: Engine) -> Iterator[None]:
    """Be part of the engine's Ray cluster; inside of another `joined`, of that one.

    Without an address Ray is started here, and stopped at the end, whatever ends it. It lives no longer than the
    thread that starts it. Raises BadInput where Ray is not installed and where no cluster answers.
    """
    if engine.address and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported; a cluster asks for it unasked
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    _check_answers(engine.address)
    try:
        _join(ray, engine.address)
        yield
    finally:
        ray.shutdown()


def engaged(engine: Engine) -> AbstractContextManager[None]:
    """Be part of the engine's cluster, if it has one: around all that a flow does, so that Ray starts once."""
    return nullcontext() if engine.kind == "local" else joined(engine)


def require_cluster(engine: Engine) -> None:
    """Refuse, before anything slow, an engine that cannot be joined: raises BadInput as `joined` does."""
    if engine.kind == "ray":
        _require_ray()
        _check_answers(engine.address)


def cluster_processors() -> float:
    """How many processors the joined cluster has."""
    return float(_ray().cluster_resources().get("CPU", 1.0))


def processors_each(workers: int, gpu: bool = False) -> float:
    """How many processors each of so many workers can have, all at once, on the machines of the joined cluster.

    With `gpu`, of those that have one. A worker is on one machine: three machines of 8 have 8 for each of two workers,
    not 12.
    """
    resources = [machine["Resources"] for machine in _ray().nodes() if machine["Alive"]]
    return evenly(workers, [each.get("CPU", 0.0) for each in resources if each.get("GPU") or not gpu])


def evenly(workers: int, machines: Sequence[float]) -> float:
    """The most that each of `workers` can have of one of `machines`, so that all of them find a place."""
    shares = {as_ray_counts(machine / among) for machine in machines for among in range(1, workers + 1)}
    placed = {share: sum(int(machine / share + 1e-9) for machine in machines) for share in shares if share > 0}
    return max((share for share, places in placed.items() if places >= workers), default=1.0)


def as_ray_counts(share: float) -> float:
    """A share that Ray takes: whole ones, or of one as many ten-thousandths as do not exceed it."""
    return float(int(share)) if share >= 1 else math.floor(share * 10_000) / 10_000


def cluster_gpus() -> float:
    """How many GPUs the joined cluster has."""
    return float(_ray().cluster_resources().get("GPU", 0.0))


def _require_ray() -> None:
    if find_spec("ray") is None:
        raise BadInput("[engine] kind = \"ray\" needs Ray, which is not installed: pip install 'labline[ray]'")


def _ray() -> Any:
    _require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the behaviour to come, without its warning
    import ray

    return ray


def _join(ray: Any, address: str) -> None:
    if not address:
        with _inherited(_search_path()):  # as everything else; a runtime_env would start every worker from scratch
            # "local": a cluster that `ray start` or RAY_ADDRESS names is joined where it is asked for, never else.
            ray.init(
                "local",
                num_cpus=processors(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        return
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": _handed_over()},
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise _no_answer(address, str(error).split("\n", 1)[0]) from None


def _handed_over() -> dict[str, str]:
    """The variables that the cluster's workers get."""
    named = {name: value for name in HANDED_OVER if (value := os.environ.get(name))}
    return {name: value for name, value in named.items() if not has_password(value)} | _search_path()


def has_password(address: str) -> bool:
    """Whether an address names who asks, and so perhaps what only they know."""
    beyond = address.partition("://")[2]
    return "@" in beyond or "password=" in beyond.lower()


@contextmanager
def _inherited(variables: Mapping[str, str]) -> Iterator[None]:
    """Have processes that are started inside find these in their environment."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _search_path() -> dict[str, str]:
    """Where a user's own modules are imported from: what this process has added to what its Python has."""
    installed = {sys.prefix, sys.base_prefix}
    added = [path for path in sys.path if path and not any(Path(path).is_relative_to(prefix) for prefix in installed)]
    return {"PYTHONPATH": os.pathsep.join(added)}


def _has_token() -> bool:
    """Whether there is what clusters of Ray ask for by default: `ray start` makes one, in the home folder."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return "RAY_AUTH_TOKEN" in os.environ or Path(named or Path.home() / ".ray" / "auth_token").is_file()


def _check_answers(address: str) -> None:
    """Ask at the door first: Ray itself tries for a minute."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if address in ("", "auto"):
        return
    if not separator or not host or not port.isdigit():
        raise BadInput(f"[engine] address = {address!r}: expected auto, host:port or ray://host:port")
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_answer(address, str(error)) from None


def _no_answer(address: str, reason: str) -> BadInput:
    return BadInput(
        f"[engine] address = {address!r}: no Ray cluster answers there ({reason}); start one with ray start --head, "
        "correct the address or the token (RAY_AUTH_TOKEN, ~/.ray/auth_token), or leave the address out: "
        "Ray is then started on this machine for the run"
    )
