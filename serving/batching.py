"""Continuous batching: what waits while the model is busy is its next batch, and nothing waits to fill one up.

Where a batch runs is measured when a version is first seen (`measure`), not assumed. A very small model answers sooner
than a thread can be woken and handed the interpreter lock, so its batches run on the event loop itself; requests that
arrived in one turn of the loop make a batch. A larger model runs in a thread, so that the loop goes on reading
requests and writing answers meanwhile, and what they bring is the next batch; batches are then no larger than pays,
for a loop that waits for one batch of everybody has nothing to do. A batch holds samples of one version, and whoever
sends a sample that the model fails on fails alone.

Shape legend: N samples.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from labline.packaged_model import EMBEDDING, PackagedModel
from serving.http import Unavailable
from serving.versions import Served

Tensor = npt.NDArray[Any]
Outputs = list[Tensor]
Outcome = Outputs | Exception

LOOP_SECONDS = 0.004  # the longest that a batch may keep the event loop from its other work
WAKING_SECONDS = 0.0001  # about what it takes to wake a thread and to get the interpreter lock back from it
WORTHWHILE = 0.03  # share of a sample's time that a larger batch has to save
RUNS = 7
SWEEP_SECONDS = 0.25


@dataclass(frozen=True)
class Placement:
    """How a version runs: on the event loop or in a thread, and in batches of at most so many samples.

    `seconds` is what one run with one sample takes, as measured.
    """

    on_loop: bool
    max_batch: int
    seconds: float


@dataclass(slots=True)
class _Waiting:
    samples: Tensor
    answer: asyncio.Future[Outputs]
    since: float


@dataclass(slots=True, eq=False)
class _Lane:
    """The samples that wait for one version."""

    served: Served
    placement: Placement
    names: tuple[str, ...]
    waiting: deque[_Waiting] = field(default_factory=deque)
    busy: bool = False  # a run is under way, or about to be
    filling: asyncio.TimerHandle | None = None  # until it goes off, a batch may still fill up


class Batcher:
    """Answers samples with a version, many at a time; to be used from one event loop.

    At most about `max_waiting` samples wait, and none longer than `timeout` seconds; `observe` is told the size of
    every batch.
    """

    def __init__(self, max_waiting: int, timeout: float, observe: Callable[[int], None] = lambda samples: None) -> None:
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._observe = observe
        # By identity: who is served is exchanged, never changed, and hashing a model takes longer than asking it.
        self._lanes: dict[int, _Lane] = {}
        self._placements: dict[int, tuple[Served, Placement]] = {}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._sweeping: asyncio.TimerHandle | None = None
        self.waiting = 0

    def prepare(self, standing: Iterable[Served]) -> None:
        """Measure the versions that are new; from any thread, so that the event loop goes on."""
        for served in standing:
            if id(served) not in self._placements:
                self._placements[id(served)] = served, measure(served)

    def forget_all_but(self, standing: Iterable[Served]) -> None:
        """Let go of versions that stand no more, when the last of their samples is answered."""
        kept = {id(served) for served in standing}
        for gone in set(self._placements) - kept:
            del self._placements[gone]
        for lane in list(self._lanes.values()):
            self._let_go(lane)

    def placement(self, served: Served) -> Placement | None:
        """How a version runs; None before it was measured."""
        found = self._placements.get(id(served))
        return found[1] if found else None

    async def answer(self, served: Served, samples: Tensor) -> Outputs:
        """The outputs of samples, N x …, in the order of `output_names`; raises Unavailable under overload.

        Raises what the model raises where it cannot answer these samples.
        """
        if self.waiting >= self._max_waiting:
            raise Unavailable("too many requests at once; come again")
        lane = self._lane(served)
        size = lane.placement.max_batch
        if len(samples) <= size:
            return await self._enter(lane, samples)
        parts = [self._enter(lane, samples[i : i + size]) for i in range(0, len(samples), size)]
        await asyncio.wait(parts)
        failures = [error for part in parts if (error := part.exception())]  # every one is looked at, the first told
        if failures:
            raise failures[0]
        return [np.concatenate(tensors) for tensors in zip(*(part.result() for part in parts), strict=True)]

    def close(self) -> None:
        """End the model's thread when its run is done."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._executor.shutdown()

    def _lane(self, served: Served) -> _Lane:
        lane = self._lanes.get(id(served))
        if lane is None:
            # A version that nobody measured yet, in the instant after an exchange, is taken for a large one.
            placement = self.placement(served) or Placement(False, served.serving.max_batch, math.nan)
            lane = self._lanes[id(served)] = _Lane(served, placement, output_names(served.model))
        return lane

    def _let_go(self, lane: _Lane) -> None:
        """Forget a lane that rests, if its version went or has been measured meanwhile."""
        if not lane.busy and self.placement(lane.served) is not lane.placement:
            self._lanes.pop(id(lane.served), None)

    def _enter(self, lane: _Lane, samples: Tensor) -> asyncio.Future[Outputs]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outputs] = loop.create_future()
        lane.waiting.append(_Waiting(samples, answer, loop.time()))
        self.waiting += len(samples)
        wait = lane.served.serving.max_wait_ms / 1000
        if not lane.busy:
            lane.busy = True
            if wait > 0 and len(samples) < lane.placement.max_batch:
                lane.filling = loop.call_later(wait, self._run, lane)
            else:
                loop.call_soon(self._run, lane)
        elif lane.filling is not None and sum(len(each.samples) for each in lane.waiting) >= lane.placement.max_batch:
            lane.filling.cancel()
            lane.filling = None
            loop.call_soon(self._run, lane)
        if self._sweeping is None and not lane.placement.on_loop:
            self._sweeping = loop.call_later(SWEEP_SECONDS, self._sweep)
        return answer

    def _run(self, lane: _Lane) -> None:
        """Start the next batch of a lane, or let it rest."""
        lane.filling = None
        batch = self._take(lane)
        if not batch:
            lane.busy = False
            self._let_go(lane)
            return
        self._observe(sum(len(each.samples) for each in batch))
        if lane.placement.on_loop:
            _distribute(batch, _outcomes(lane, batch))
            asyncio.get_running_loop().call_soon(self._run, lane)
        else:
            running = asyncio.get_running_loop().run_in_executor(self._executor, _outcomes, lane, batch)
            running.add_done_callback(lambda done: self._ran(lane, batch, done))

    def _ran(self, lane: _Lane, batch: list[_Waiting], done: asyncio.Future[list[Outcome]]) -> None:
        if not done.cancelled():
            _distribute(batch, done.result())
            self._run(lane)

    def _take(self, lane: _Lane) -> list[_Waiting]:
        batch: list[_Waiting] = []
        room = lane.placement.max_batch
        while lane.waiting and len(lane.waiting[0].samples) <= room:
            first = lane.waiting.popleft()
            self.waiting -= len(first.samples)
            if not first.answer.done():  # its client may have been told that it took too long
                batch.append(first)
                room -= len(first.samples)
        return batch

    def _sweep(self) -> None:
        """Tell those who have waited too long; who waits longest is first."""
        loop = asyncio.get_running_loop()
        late = loop.time() - self._timeout
        for lane in self._lanes.values():
            for each in lane.waiting:
                if each.since > late:
                    break
                if not each.answer.done():
                    each.answer.set_exception(Unavailable(f"no answer within {self._timeout:g} s; come again"))
        busy = any(lane.waiting for lane in self._lanes.values())
        self._sweeping = loop.call_later(SWEEP_SECONDS, self._sweep) if busy else None


def measure(served: Served) -> Placement:
    """See how long runs of one sample and, of a small model, of ever larger batches take, and decide where they run."""
    most = served.serving.max_batch
    seconds = {1: _seconds(served.model, 1)}
    while seconds[1] <= LOOP_SECONDS / 4 and 2 * max(seconds) <= most:
        taken = _seconds(served.model, 2 * max(seconds))
        if taken > LOOP_SECONDS:
            break
        seconds[2 * max(seconds)] = taken
    return place(seconds, most)


def place(seconds: Mapping[int, float], most: int) -> Placement:
    """Where a model runs of which batches of so many samples take so many seconds, and in batches of how many.

    On the loop where one sample takes less than WAKING_SECONDS; its batches are then as large as was measured. Else in
    a thread, in the smallest batches of which larger ones would not save a sample WORTHWHILE of its time, or, of a
    model beside which the loop's own work is nothing, in batches of up to `most`.
    """
    alone = seconds[1]
    if alone > LOOP_SECONDS / 4:
        return Placement(False, most, alone)
    if alone < WAKING_SECONDS:
        return Placement(True, max(seconds), alone)
    best = min(taken / batch for batch, taken in seconds.items())
    paying = min(batch for batch, taken in seconds.items() if taken / batch <= best * (1 + WORTHWHILE))
    return Placement(False, paying, alone)


def output_names(model: PackagedModel) -> tuple[str, ...]:
    """What the service asks a model for: its answer, and the embedding where it has one."""
    return (model.answer_name, EMBEDDING) if model.has_embedding else (model.answer_name,)


def _seconds(model: PackagedModel, samples: int) -> float:
    """The time of a run that nothing else got in the way of, after one that allocates."""
    batch = np.zeros((samples, *(size or 1 for size in model.input.shape[1:])), model.input.dtype)
    taken = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        model.answer(batch, output_names(model))
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


def _outcomes(lane: _Lane, batch: list[_Waiting]) -> list[Outcome]:
    """One outcome for each member; where the batch as a whole fails, each is asked about alone."""
    alone = len(batch) == 1
    try:
        samples = batch[0].samples if alone else np.concatenate([each.samples for each in batch])
        outputs = lane.served.model.answer(samples, lane.names)
    except Exception as error:  # whatever a runtime raises, its own client hears of it
        return [error] if alone else [outcome for each in batch for outcome in _outcomes(lane, [each])]
    if alone:
        return [outputs]
    ends = list(accumulate((len(each.samples) for each in batch), initial=0))
    return [[tensor[start:end] for tensor in outputs] for start, end in pairwise(ends)]


def _distribute(batch: list[_Waiting], outcomes: list[Outcome]) -> None:
    for each, outcome in zip(batch, outcomes, strict=True):
        if each.answer.done():  # told that it took too long, or its client left
            continue
        if isinstance(outcome, Exception):
            each.answer.set_exception(outcome)
        else:
            each.answer.set_result(outcome)
