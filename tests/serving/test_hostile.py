"""A service among strangers: thousands of damaged bodies, and requests made from its own OpenAPI description."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from malformed import PIXELS, SIZE, Body, bombs, malformed
from running_service import KEY, RAW, VOLATILITY, Running, prepare, running, write_forecaster
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from small_models import LABELS
from small_versions import write_version

BODIES = 10_000
SENDERS = 4
MEGABYTES = 500  # that the worker may grow by: 320 as measured, most of it two threads that decode 64 MiB each


CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module", params=["image", "series"])
def description(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The OpenAPI description of a running service of either kind."""
    root = tmp_path_factory.mktemp("described")
    if request.param == "image":
        version = write_version(root / "one", 0.05, size=SIZE)
    else:
        version = write_forecaster(root / "one", VOLATILITY.replace('head = "gaussian"', 'head = "point"'))
    with running(prepare(root, production=version)) as found:
        yield schemathesis.openapi.from_url(f"{found.client.base_url}/openapi.json", headers=dict(found.client.headers))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("service")
    with running(prepare(root, production=write_version(root / "one", 0.05, size=SIZE))) as found:
        yield found


def test_ten_thousand_damaged_bodies_and_all_bombs_harm_nobody(service: Running) -> None:
    before = most_memory(service)
    seen: collections.Counter[int] = collections.Counter()

    def send(some: list[Body]) -> None:
        connection = HTTPConnection("127.0.0.1", service.port, timeout=60)
        for content, media in some:
            headers = {"content-type": media, "x-api-key": KEY}
            connection.request("POST", "/predict", content, headers)
            answer = connection.getresponse()
            answer.read()
            seen[answer.status] += 1

    bodies = [*malformed(BODIES), *bombs().values()]
    with ThreadPoolExecutor(SENDERS) as senders:
        list(senders.map(send, [bodies[i::SENDERS] for i in range(SENDERS)]))

    assert sum(seen.values()) == len(bodies)
    assert set(seen) <= {200, 400, 413, 415, 422, 503}, seen
    assert seen[422] > BODIES / 4
    assert most_memory(service) - before < MEGABYTES
    assert service.post("/predict", PIXELS.tobytes(), RAW).json()["label"] in LABELS


def most_memory(service: Running) -> float:
    """The most that the worker ever had resident, in MiB."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_whatever_is_made_from_its_description_is_answered_as_it_says(
    description: Any, mode: schemathesis.GenerationMode
) -> None:
    operations = [found.ok() for found in description.get_all_operations()]
    assert {"/predict", "/feedback", "/model"} <= {operation.path for operation in operations}
    for operation in operations:
        fuzz(operation, mode)


def fuzz(operation: Any, mode: schemathesis.GenerationMode) -> None:
    """Send what fits an operation's description, or what does not, and hold the answers against it."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    def send(case: Any) -> None:
        answer = case.call(headers={"x-api-key": KEY})
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        case.validate_response(answer, checks=CHECKS)

    send()
