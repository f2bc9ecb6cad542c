"""Batching: everyone gets the answer to their own samples, and nobody suffers from another's."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running_service import write_classifier

from labline.errors import LablineError
from labline.packaged_model import PackagedModel
from serving.batching import Batcher, Placement, measure, place
from serving.http import Unavailable
from serving.versions import Served, load

SIZE = 8


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return load("1", write_classifier(tmp_path_factory.mktemp("version") / "one", max_batch=4))


def images(*brightness: int) -> np.ndarray:
    return np.stack([np.full((SIZE, SIZE, 1), value, np.uint8) for value in brightness])


def run(
    served: Served, on_loop: bool, ask: Callable[[Batcher], Coroutine[Any, Any, Any]], **bounds: Any
) -> tuple[Any, list[int]]:
    """What `ask` returns with a batcher that places the version as told, and the sizes of the batches."""
    sizes: list[int] = []
    batcher = Batcher(**{"max_waiting": 100, "timeout": 10, **bounds}, observe=sizes.append)
    batcher._placements[id(served)] = served, Placement(on_loop, served.serving.max_batch, 0.0)

    async def asked() -> Any:
        try:
            return await ask(batcher)
        finally:
            assert batcher.waiting == 0
            batcher.close()

    return asyncio.run(asked()), sizes


@pytest.mark.parametrize("on_loop", [True, False])
@settings(max_examples=25, deadline=None)
@given(requests=st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=11), min_size=1, max_size=12))
def test_each_request_gets_the_answers_to_its_own_samples(
    served: Served, on_loop: bool, requests: list[list[int]]
) -> None:
    async def ask(batcher: Batcher) -> list[Any]:
        return await asyncio.gather(*(batcher.answer(served, images(*each)) for each in requests))

    answers, sizes = run(served, on_loop, ask)

    for each, (probabilities_NK,) in zip(requests, answers, strict=True):
        np.testing.assert_allclose(probabilities_NK, served.model.predict(images(*each)), atol=1e-6)
    assert sum(sizes) == sum(map(len, requests))
    assert max(sizes) <= served.serving.max_batch


@pytest.mark.parametrize("on_loop", [True, False])
def test_what_comes_together_is_answered_together(served: Served, on_loop: bool) -> None:
    async def ask(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.answer(served, images(value)) for value in range(8)))

    _, sizes = run(served, on_loop, ask)

    assert sizes == [4, 4]


class Picky(PackagedModel):
    """Fails on a batch that holds a black image, as a model with a bad custom operator may; a real session answers."""

    def answer(self, samples: np.ndarray, names: tuple[str, ...]) -> list[np.ndarray]:
        if (samples == 0).all(axis=(1, 2, 3)).any():
            raise LablineError("no black images")
        return super().answer(samples, names)


def test_a_sample_that_the_model_fails_on_fails_alone(served: Served) -> None:
    model = served.model
    picky = Picky(model.folder, model.session, model.kind, model.input, model.outputs, model.labels, model.head)
    served = replace(served, model=picky)

    async def ask(batcher: Batcher) -> list[Any]:
        asked = (batcher.answer(served, images(value)) for value in (10, 0, 250))
        return await asyncio.gather(*asked, return_exceptions=True)

    (dark, black, bright), _ = run(served, True, ask)

    assert str(black) == "no black images"
    assert dark[0][0, 0] > 0.5 and bright[0][0, 1] > 0.5


def test_what_is_too_much_is_refused_at_once(served: Served) -> None:
    async def ask(batcher: Batcher) -> list[Any]:
        asked = (batcher.answer(served, images(value)) for value in range(10))
        return await asyncio.gather(*asked, return_exceptions=True)

    answers, _ = run(served, False, ask, max_waiting=6)

    refused = [answer for answer in answers if isinstance(answer, Unavailable)]
    assert len(refused) == 4
    assert refused[0].retry_after == 1


class Stuck(PackagedModel):
    """Answers when it is told to."""

    go = threading.Event()

    def answer(self, samples: np.ndarray, names: tuple[str, ...]) -> list[np.ndarray]:
        self.go.wait(20)
        return super().answer(samples, names)


def test_who_waited_too_long_is_told_so_and_the_rest_goes_on(served: Served) -> None:
    model = served.model
    stuck = Stuck(model.folder, model.session, model.kind, model.input, model.outputs, model.labels, model.head)
    served = replace(served, model=stuck)

    async def ask(batcher: Batcher) -> tuple[Any, Any]:
        first = asyncio.ensure_future(batcher.answer(served, images(1)))
        await asyncio.sleep(0.05)
        with pytest.raises(Unavailable, match="no answer within"):
            await batcher.answer(served, images(2))
        stuck.go.set()
        return await first, await batcher.answer(served, images(250))

    (first, later), _ = run(served, False, ask, timeout=0.1)

    assert first[0][0, 0] > 0.5 and later[0][0, 1] > 0.5


def test_a_batch_may_wait_to_fill_up_and_goes_when_it_is_full(tmp_path: Path) -> None:
    served = load("1", write_classifier(tmp_path / "one", max_batch=4, max_wait_ms=1000))

    async def ask(batcher: Batcher) -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        four = []
        for value in range(4):
            four.append(asyncio.ensure_future(batcher.answer(served, images(value))))
            await asyncio.sleep(0.01)
        await asyncio.gather(*four)
        full = loop.time() - started
        started = loop.time()
        await batcher.answer(served, images(1))
        assert loop.time() - started >= 1.0
        return full

    full, sizes = run(served, True, ask)

    assert sizes == [4, 1]
    assert full < 1.0


def test_a_large_request_that_fails_leaves_no_error_unheard(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    async def ask(batcher: Batcher) -> None:
        with pytest.raises(LablineError):
            await batcher.answer(served, np.zeros((9, SIZE + 1, SIZE, 1), np.uint8))
        gc.collect()

    run(served, True, ask)

    assert "never retrieved" not in caplog.text


def test_a_version_that_went_is_let_go_of(served: Served) -> None:
    async def ask(batcher: Batcher) -> None:
        await batcher.answer(served, images(1))
        await asyncio.sleep(0)
        batcher.forget_all_but([])
        assert not batcher._lanes and batcher.placement(served) is None

    run(served, True, ask)


def test_a_small_model_is_measured_to_run_on_the_loop(served: Served) -> None:
    placement = measure(served)

    assert placement.seconds > 0
    assert 1 <= placement.max_batch <= served.serving.max_batch


@pytest.mark.parametrize(
    ("seconds", "placement"),
    [
        # Done before a thread is awake.
        ({1: 2e-5, 2: 3e-5, 4: 5e-5}, Placement(True, 4, 2e-5)),
        # A sample takes 140, 131, 125 and 124 us: the loop writes answers while the thread runs the next eight.
        ({1: 140e-6, 4: 524e-6, 8: 1000e-6, 16: 1984e-6}, Placement(False, 8, 140e-6)),
        # Beside 20 ms the loop's own work is nothing: whatever batches save is saved.
        ({1: 20e-3}, Placement(False, 64, 20e-3)),
    ],
)
def test_batches_run_where_they_are_answered_soonest(seconds: dict[int, float], placement: Placement) -> None:
    assert place(seconds, most=64) == placement
