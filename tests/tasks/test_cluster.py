"""How a cluster is shared out, and what it is told; tests/flows/test_ray_*.py compute on one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.cluster import evenly, has_password

MACHINES = st.lists(st.integers(0, 64).map(float), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("workers", "machines", "each"),
    [
        (1, [8.0, 8.0], 8.0),  # a worker is on one machine
        (2, [8.0, 8.0, 8.0], 8.0),
        (3, [8.0, 8.0], 4.0),  # of 5 each only two would find a place
        (4, [2.0], 0.5),
        (3, [1.0], 0.3333),
        (2, [0.0, 3.0], 1.0),
    ],
)
def test_processors_are_shared_so_that_every_worker_finds_a_place(
    workers: int, machines: list[float], each: float
) -> None:
    assert evenly(workers, machines) == each


@given(st.integers(1, 20), MACHINES.filter(any))
def test_all_workers_find_a_place(workers: int, machines: list[float]) -> None:
    each = evenly(workers, machines)
    assert each > 0
    assert sum(int(machine / each + 1e-9) for machine in machines) >= workers


@pytest.mark.parametrize(
    ("address", "has"),
    [
        ("http://mlflow:5000", False),
        ("postgresql+psycopg://db/tuning", False),
        ("postgresql+psycopg://me:secret@db/tuning", True),
        ("postgresql+psycopg://db/tuning?user=me&password=secret", True),
        ("/data/labline", False),
    ],
)
def test_what_holds_a_password_is_known(address: str, has: bool) -> None:
    assert has_password(address) == has
