"""The serving benchmark's own parts: the model, what is sent to whom, and how the figures are put together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import packaged, serving
from benchmarks.load import Load, drive, named
from benchmarks.rivals.constant_answer import BODY
from benchmarks.serving import CONCURRENCIES, Contender, Turn
from benchmarks.sides import (
    Server,
    Side,
    Way,
    constant_side,
    labline_side,
    litserve_sides,
    mlflow_side,
    start,
    wait_until_ready,
)
from flows.ui import stop
from labline.errors import LablineError

ONE = np.ones((1, 1), np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packaged.export(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def plain(model: Path) -> Path:
    return packaged.with_probabilities_alone(model, model.with_name("plain.onnx"))


@pytest.fixture
def constant(tmp_path: Path) -> Iterator[Server]:
    """A server whose second way is right, and whose first reads something that is not there."""
    ways = [Way("wrong", [b"x" * 10], named("logits")), Way("right", [b"x" * 10], named("probabilities"))]
    side = constant_side(length=10)
    server = start(Side(side.name, side.command, ways), tmp_path)
    yield server
    stop({"constant": server.process})


def test_the_rivals_have_the_same_model(model: Path, plain: Path) -> None:
    images = packaged.images(5)
    assert packaged.parameters(model) == packaged.parameters(plain) == pytest.approx(281_000, abs=1000)
    assert [output.name for output in onnx.load(plain).graph.output] == ["probabilities"]
    assert np.array_equal(packaged.probabilities(model, images), packaged.probabilities(plain, images))


def test_mlflow_understands_each_of_its_ways(plain: Path, tmp_path: Path) -> None:
    from mlflow.pyfunc import load_model
    from mlflow.pyfunc.scoring_server import invocations

    images = packaged.images(2)
    served = load_model(str(packaged.save_for_mlflow(plain, tmp_path / "version")))
    for way in mlflow_side(images, tmp_path).ways:
        for asked, expected in zip(way.requests, packaged.probabilities(plain, images), strict=True):
            head, _, body = asked.partition(b"\r\n\r\n")
            content_type = next(line for line in head.decode().split("\r\n") if line.startswith("Content-Type: "))
            answer = invocations(body, content_type[14:], served, served.metadata.get_input_schema())
            assert np.allclose(way.read(answer.response.encode()), expected, atol=1e-6), way.name


def test_labline_serves_the_model_with_everything_on(model: Path, tmp_path: Path) -> None:
    images = packaged.images(4)
    expected = packaged.probabilities(model, images)
    store = tmp_path / "store"
    store.mkdir()
    side = labline_side(images, packaged.register(model, store))
    server = start(side, tmp_path)
    try:
        wait_until_ready(server, expected)
        load = drive(server.target(side.ways[0], expected), 4, seconds=0.2)
        assert load.errors == 0 and load.checked >= 1
        assert server.cpu_seconds() > 0
        server.settle()
    finally:
        stop({"labline": server.process})
    assert (store / "feedback.db").stat().st_size > 3072


def test_a_way_that_fails_is_never_the_fastest(constant: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "TRIAL_SECONDS", 0.05)
    monkeypatch.setattr(serving, "WARM_UP_SECONDS", 0.05)
    right = Server(Side("constant", [], constant.side.ways[1:]), constant.port, constant.process, constant.log)
    wait_until_ready(right, ONE)
    found = serving._fastest([constant], ONE)
    assert {way.name for _, way in found.fastest.values()} == {"right"}
    assert list(found.trials) == ["right"]


def test_a_server_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    side = Side("broken", ["python3", "-c", "raise SystemExit('no model today')"], [Way("any", [b"x"], named("y"))])
    server = start(side, tmp_path)
    with pytest.raises(LablineError, match="broken ended with code 1: no model today"):
        wait_until_ready(server, ONE)


def test_ratios_are_of_medians_with_16_in_flight(constant: Server) -> None:
    names = {"labline": 3000.0, "mlflow": 500.0, "litserve": 1500.0, "bentoml": 250.0}
    way = constant.side.ways[1]
    contenders = [Contender(name, dict.fromkeys(CONCURRENCIES, (constant, way)), {}) for name in names]
    turns = {
        (name, concurrency): [Turn(_load(rate * factor), 0.5, 0.0) for factor in (1.0, 9.0, 0.1)]
        for name, rate in names.items()
        for concurrency in CONCURRENCIES
    }
    result = serving._result(contenders, turns)
    assert (result["ratio"], result["ratio_litserve"], result["ratio_bentoml"]) == (6.0, 2.0, 12.0)
    assert result["lowest_p99"] is True
    assert result["ours"]["at"]["16"]["lowest"] == 300.0
    table = serving.table(result | {"load_generator": {"per_second": 20000.0}})
    assert "6.0 times MLflow's" in table and table.count("labline") > len(CONCURRENCIES)


def _load(per_second: float) -> Load:
    return Load(100, per_second, p50_ms=1e3 / per_second, p99_ms=5e3 / per_second, checked=2, errors=0)


def test_constant_answers_are_what_is_read() -> None:
    assert list(named("probabilities")(BODY)) == [1.0]


def test_litserve_is_tried_with_and_without_batching(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setattr("benchmarks.sides.environment", lambda rival: Path("/environments") / rival)
    single, batched = litserve_sides(packaged.images(1), model)
    assert single.command[-2:] == ["1", "0.0"] and batched.command[-2:] == ["16", "0.002"]
    assert single.ways[0].name != batched.ways[0].name
