"""Fifty use cases deployed and scheduled at once, twenty flow runs at the same time on one worker: nothing is lost.

Each flow run is a process of 300 MiB that first imports for seconds: minutes on two cores. LABLINE_PRODUCTION=1 asks.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from production_site import ProductionSite, eventually, production_site, text_of

pytestmark = pytest.mark.skipif(
    not os.environ.get("LABLINE_PRODUCTION"), reason="needs minutes and 8 GB of memory: LABLINE_PRODUCTION=1"
)
USECASES, AT_ONCE = 50, 20
WITHIN_SECONDS = 900
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
DECLARED = 'name = "{name}"\ntitle = "{name}"\n[data]\nsource = "surfaces"\nimage_size = 32\n[training]\nepochs = 1\n'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductionSite]:
    with production_site(tmp_path_factory.mktemp("production")) as up:
        yield up


def test_nothing_is_lost(site: ProductionSite, tmp_path: Path) -> None:
    names = [f"usecase-{number:02}" for number in range(USECASES)]
    for name in names:
        (tmp_path / f"{name}.toml").write_text(DECLARED.format(name=name))
    begun = time.monotonic()
    deployed = site.labline("deploy", *(str(tmp_path / f"{name}.toml") for name in names), "--json")
    assert deployed.code == 0, deployed.err
    print(f"{USECASES} use cases deployed in {time.monotonic() - begun:.0f} s")
    with site.prefect() as prefect:
        there = {(one["name"], one["entrypoint"]): one for one in _all(prefect, "/deployments/filter")}
        watching = [there[name, "flows/monitoring.py:monitoring"] for name in names]
        assert all((name, "flows/training.py:training") in there for name in names)
        assert all(len(one["schedules"]) == 1 and one["schedules"][0]["active"] for one in watching)
        eventually(lambda: len(_scheduled(prefect)) >= USECASES, WITHIN_SECONDS)
        begun = time.monotonic()
        asked = [
            prefect.post(f"/deployments/{one['id']}/create_flow_run", json={}).raise_for_status().json()["id"]
            for one in watching[:AT_ONCE]
        ]
        most = _wait(prefect, asked)
        print(f"{AT_ONCE} flow runs, {most} at once, done in {time.monotonic() - begun:.0f} s")
        runs = _all(prefect, "/flow_runs/filter", {"flow_runs": {"id": {"any_": asked}}})
    assert Counter(run["state_type"] for run in runs) == {"COMPLETED": AT_ONCE}
    assert {run["run_count"] for run in runs} == {1}
    assert most > AT_ONCE // 2  # each first imports for seconds; the last may begin when the first has ended
    logs = [text_of(log) for log in (site.store / "logs").glob("*.log")]
    locked = sum(log.count("database is locked") for log in logs)
    assert locked == 0


def _all(prefect: httpx.Client, page: str, where: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        asked = {**(where or {}), "offset": len(found), "limit": 200}
        more = prefect.post(page, json=asked).raise_for_status().json()
        found += more
        if len(more) < 200:
            return found


def _scheduled(prefect: httpx.Client) -> set[str]:
    """The deployments that have a run ahead of them."""
    where = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    return {str(run["deployment_id"]) for run in _all(prefect, "/flow_runs/filter", where)}


def _wait(prefect: httpx.Client, asked: list[str]) -> int:
    """Wait until all have ended; returns how many were seen running at the same time."""
    most = 0
    deadline = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < deadline:
        runs = _all(prefect, "/flow_runs/filter", {"flow_runs": {"id": {"any_": asked}}})
        states = Counter(run["state_type"] for run in runs)
        most = max(most, states["RUNNING"] + states["PENDING"])
        if sum(states[state] for state in FINAL) == len(asked):
            break
        time.sleep(0.5)
    return most
