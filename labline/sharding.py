"""Sharded work: one function over many shards, done by whoever there is: this process, several, or a cluster.

Kept free of pandas and torch: the processes that work import this module, and so start quickly.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from labline.errors import LablineError

Job = TypeVar("Job")
Shard = TypeVar("Shard")
Result = TypeVar("Result")
Opening = Callable[[Job], AbstractContextManager[Callable[[Shard], Result]]]


@dataclass(frozen=True)
class Pool:
    """Who works on shards: `workers` processes behind an `executor`, or this process alone where there is none."""

    executor: Executor | None = None
    workers: int = 1

    def over(self, opening: Opening[Job, Shard, Result], job: Job, shards: Iterable[Shard]) -> Iterator[Result]:
        """The result of each shard, in their order.

        `opening` makes of `job` what shards are given to, and keeps open what that needs; each process opens it once.
        `opening` is a function of a module, and `job`, shards and results can be pickled. No more shards are read
        than the workers are busy with, twice over. Raises what the work raises, and concurrent.futures.BrokenExecutor
        where a process dies.
        """
        if self.executor is None:
            with opening(job) as work:
                yield from map(work, shards)
            return
        opened = uuid.uuid4().hex
        running: deque[Future[Result]] = deque()
        for shard in shards:
            if len(running) >= 2 * self.workers:
                yield running.popleft().result()
            running.append(self.executor.submit(_work, opened, opening, job, shard))
        while running:
            yield running.popleft().result()


@contextmanager
def processes(workers: int) -> Iterator[Pool]:
    """So many processes of this machine, as long as the context lasts; of one, this very process."""
    if workers <= 1:
        yield Pool()
        return
    context = multiprocessing.get_context("spawn")  # the caller may run threads, which a fork would leave half-locked
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_process) as executor:
        try:
            yield Pool(executor, workers)
        finally:
            executor.shutdown(cancel_futures=True)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_elsewhere(shared: Path) -> None:
    """Raise LablineError where a process does not see what all of them write to."""
    if not shared.exists():
        raise LablineError(
            f"{shared} is not there on {socket.gethostname()}, which was to write to it: all machines of the cluster "
            "need it in a shared folder, under the same path"
        )


# Of a working process: what it has opened stays open between its shards, until it works on something else.
_held: tuple[str, Callable[[Any], Any]] | None = None
_files = ExitStack()


def _work(opened: str, opening: Opening[Job, Shard, Result], job: Job, shard: Shard) -> Result:
    """Work on one shard; `opened` names what is to be open for it."""
    global _held
    if _held is None or _held[0] != opened:
        _held = None
        _files.close()
        _held = opened, _files.enter_context(opening(job))
    result: Result = _held[1](shard)
    return result


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the parent's end and end too: a parent that was killed leaves no process behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
