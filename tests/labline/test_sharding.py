"""Sharded work: the same results from one process or several, in order, and a bound on what is under way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from labline.errors import LablineError
from labline.sharding import Pool, processes, refuse_elsewhere

TWO = 2


@contextmanager
def multiplying(job: tuple[int, Path]) -> Iterator[Callable[[int], int]]:
    """Multiplies by the job's number; each process leaves a file that says so while it holds the job open."""
    factor, folder = job
    trace = folder / str(os.getpid())
    trace.write_text("open")

    def multiplied(shard: int) -> int:
        if shard < 0:
            raise ValueError(f"{shard} is negative")
        return factor * shard

    yield multiplied
    trace.write_text("closed")


@contextmanager
def dying(job: None) -> Iterator[Callable[[int], int]]:
    def kill(shard: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return shard

    yield kill


@pytest.fixture(scope="module")
def two() -> Iterator[Pool]:
    with processes(TWO) as pool:
        yield pool


def test_results_come_in_the_order_of_the_shards(two: Pool, tmp_path: Path) -> None:
    expected = [3 * shard for shard in range(50)]
    assert list(two.over(multiplying, (3, tmp_path), range(50))) == expected
    with processes(1) as alone:
        assert list(alone.over(multiplying, (3, tmp_path), range(50))) == expected


def test_each_process_opens_the_job_once_and_closes_it_for_the_next(two: Pool, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    assert sum(two.over(multiplying, (2, first), range(40))) == 2 * sum(range(40))
    assert sum(two.over(multiplying, (5, second), range(40))) == 5 * sum(range(40))
    assert 1 <= len(list(first.iterdir())) <= TWO
    assert str(os.getpid()) not in {trace.name for trace in first.iterdir()}
    for trace in second.iterdir():
        before = first / trace.name
        assert not before.exists() or before.read_text() == "closed"


def test_this_process_closes_what_it_opened(tmp_path: Path) -> None:
    assert list(Pool().over(multiplying, (2, tmp_path), [1])) == [2]
    assert (tmp_path / str(os.getpid())).read_text() == "closed"


def test_no_more_shards_are_read_than_keep_the_workers_busy(two: Pool, tmp_path: Path) -> None:
    read = 0

    def shards() -> Iterator[int]:
        nonlocal read
        for shard in range(100):
            read += 1
            yield shard

    for done, _ in enumerate(two.over(multiplying, (1, tmp_path), shards()), start=1):
        assert read <= done + 2 * TWO


def test_what_the_work_raises_is_raised(two: Pool, tmp_path: Path) -> None:
    for pool in (two, Pool()):
        with pytest.raises(ValueError, match="-1 is negative"):
            list(pool.over(multiplying, (1, tmp_path), [1, -1, 2]))


def test_a_process_that_dies_is_told() -> None:
    with processes(TWO) as pool, pytest.raises(BrokenExecutor):
        list(pool.over(dying, None, range(4)))


def test_a_machine_that_does_not_see_the_shared_folder_says_so(tmp_path: Path) -> None:
    refuse_elsewhere(tmp_path)
    with pytest.raises(LablineError, match="is not there on .*shared folder, under the same path"):
        refuse_elsewhere(tmp_path / "gone")
