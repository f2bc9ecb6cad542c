"""A worker's parts together, without the process around them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running_service import prepare, write_classifier

from serving.assignment import Assigned, Assignment, write_assignment
from serving.service import Service
from serving.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return prepare(tmp_path, production=write_classifier(tmp_path / "1"))


def test_what_was_measured_of_a_version_outlives_two_exchanges_in_one_turn_of_the_loop(
    settings: Settings, tmp_path: Path
) -> None:
    async def exchange_twice() -> None:
        service = Service(settings)
        await service.start()
        for number in ("2", "3"):
            version = Assigned(number, str(write_classifier(tmp_path / number)))
            write_assignment(settings.folder, Assignment("production", version))
            busy_until(lambda number=number: stands(service, number))  # type: ignore[misc]
        await asyncio.sleep(0.1)
        assert stands(service, "3")
        await service.stop()

    asyncio.run(exchange_twice())


def stands(service: Service, version: str) -> bool:
    served = service.production()
    return served.version == version and service.batcher.placement(served) is not None


def busy_until(condition: Callable[[], bool]) -> None:
    """Keep the event loop from its work until something has happened in a thread."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")
