"""20,000 requests, 64 at a time, while Production moves five times and the busiest worker is killed twice.

    pytest tests/serving/test_under_load.py -s

prints what was seen. Everything is real: supervisor, two workers, MLflow's registry, the feedback store.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from clients import Told, ask, assert_nothing_was_lost, images, right_answers
from running_service import KEY, PROJECT, USECASE
from small_versions import write_version

from labline.feedback import FeedbackStore
from serving.draining import Drainer

REQUESTS, CONCURRENCY = 20_000, 64
CONTRASTS = {str(number): 0.002 * number for number in range(1, 7)}
FIRST, *PROMOTED = CONTRASTS
KILLED_AT = ("3", "5")  # a worker is killed just when one of these is promoted


class Registry:
    """MLflow's, on SQLite, with six versions that answer differently; the first is in Production."""

    def __init__(self, address: str, folder: Path) -> None:
        from mlflow import MlflowClient

        self.address = address
        self._client = MlflowClient(address, address)
        self._client.create_registered_model(USECASE)
        for number, contrast in CONTRASTS.items():
            self._client.create_model_version(USECASE, str(write_version(folder / number, contrast)))
        self.promote(FIRST)

    def promote(self, version: str) -> None:
        self._client.set_registered_model_alias(USECASE, "production", version)


class Service:
    """`python -m serving` with two workers."""

    def __init__(self, store: Path, registry: str) -> None:
        self.feedback = f"sqlite:///{store}/feedback.db"
        self.journal = store / "serving" / USECASE / "journal"
        own = {"LABLINE_STORE": str(store), "LABLINE_FEEDBACK": self.feedback, "LABLINE_SERVING_KEY": KEY}
        own |= {"MLFLOW_TRACKING_URI": registry, "MLFLOW_REGISTRY_URI": registry}
        command = [sys.executable, "-m", "serving", USECASE, "--port=0", "--workers=2", "--poll=0.2", "--json"]
        self._process = subprocess.Popen(command, env=os.environ | own, cwd=PROJECT, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        where = json.loads(self._process.stdout.readline() or "{}")
        assert where.get("version") == FIRST, where
        self.port = int(where["address"].rpartition(":")[2])

    def kill_a_worker(self) -> set[int]:
        """Kill -9 the one with the most connections; returns the clients' ports of these."""
        held: dict[psutil.Process, set[int]] = {}
        for child in psutil.Process(self._process.pid).children():
            if "serving.worker" in child.cmdline():
                child.suspend()  # it accepts no other connection while it is looked at
                held[child] = {each.raddr.port for each in child.net_connections("tcp") if each.raddr}
        victim = max(held, key=lambda worker: len(held[worker]))
        victim.kill()
        for worker in held.keys() - {victim}:
            worker.resume()
        return held[victim]

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(60) == 0


@pytest.fixture
def promoting(registry_address: str, tmp_path: Path) -> Registry:
    return Registry(registry_address, tmp_path)


@pytest.fixture
def service(promoting: Registry, tmp_path: Path) -> Iterator[Service]:
    started = Service(tmp_path / "store", promoting.address)
    yield started
    if started._process.poll() is None:
        started.stop()


def test_nothing_is_wrong_or_lost_while_production_moves_and_workers_die(promoting: Registry, service: Service) -> None:
    pictures = images()
    told, in_hand = asyncio.run(press(promoting, service, [picture.tobytes() for picture in pictures]))
    service.stop()
    Drainer(service.feedback, service.journal).close(60)

    assert told.requests >= REQUESTS
    assert told.versions == set(CONTRASTS), "every version answered"
    assert wrong_answers(told, pictures) == []
    assert set(told.statuses) == {200}
    assert set(told.broken) <= in_hand, "no request failed but those in a killed worker's hands"
    assert told.broken, "the killed workers had some in hand"
    assert told.given_up == []
    assert_nothing_was_lost(told, FeedbackStore(service.feedback))


async def press(registry: Registry, service: Service, pictures: list[bytes]) -> tuple[Told, set[int]]:
    """The load, and all that happens meanwhile; returns also the clients' ports that killed workers held."""
    told, ending, started = Told(), asyncio.Event(), time.perf_counter()
    clients = [asyncio.create_task(ask(service.port, told, ending, seed, pictures)) for seed in range(CONCURRENCY)]
    in_hand: set[int] = set()
    try:
        for done, version in enumerate(PROMOTED):
            await until(lambda done=done: told.requests >= REQUESTS * done // len(CONTRASTS), told)
            await asyncio.to_thread(registry.promote, version)
            if version in KILLED_AT:
                in_hand |= await asyncio.to_thread(service.kill_a_worker)
            await until(lambda version=version: version in told.versions, told)
        await until(lambda: told.requests >= REQUESTS, told)
    finally:
        ending.set()
        await asyncio.gather(*clients)
    report(told, time.perf_counter() - started)
    return told, in_hand


async def until(holds: Callable[[], bool], told: Told) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline and not told.given_up, (told.statuses, told.versions, told.given_up)
        await asyncio.sleep(0.01)


def wrong_answers(told: Told, pictures: np.ndarray) -> list[tuple[int, dict[str, Any]]]:
    """Those that are not what the version that they name has to say of the image."""
    right = {version: right_answers(pictures, contrast) for version, contrast in CONTRASTS.items()}
    return [
        (which, answer)
        for which, answer in told.answers
        if abs(answer["probabilities"]["bright"] - right[answer["version"]][which]) > 1e-5
        or answer["label"] != ("bright" if right[answer["version"]][which] > 0.5 else "dark")
    ]


def report(told: Told, seconds: float) -> None:
    p50, p99 = np.quantile(told.milliseconds, [0.5, 0.99])
    print(
        f"\n{told.requests:,} requests at concurrency {CONCURRENCY} in {seconds:.1f} s: "
        f"{told.requests / seconds:,.0f} a second, p50 {p50:.1f} ms, p99 {p99:.1f} ms; "
        f"{len(told.answers):,} predictions of {len(told.versions)} versions, "
        f"{len(told.labels):,} labels acknowledged, {len(told.broken)} tries cut by {len(KILLED_AT)} kills, "
        f"{len(told.given_up)} requests given up"
    )
