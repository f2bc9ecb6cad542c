"""`[engine]`: local unless it is said otherwise, and no address that nobody would use."""

from __future__ import annotations

import pytest

from labline.declaration import load_usecase
from labline.engine import Engine, engine_assignments, engine_of
from labline.errors import BadInput
from tasks.environment import USECASES


def declared(*assignments: str) -> Engine:
    return load_usecase("surface", USECASES, assignments).engine


def test_everything_is_local_by_default() -> None:
    assert declared() == Engine(kind="local", address="", workers=2)
    assert declared().training_workers == 1


def test_flags_stand_for_declared_values() -> None:
    engine = declared(*engine_assignments("ray", "10.0.0.1:6379"), "engine.workers=4")
    assert engine == Engine(kind="ray", address="10.0.0.1:6379", workers=4)
    assert engine.training_workers == 4
    assert engine_assignments(None, None) == []


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (engine_assignments("rya", None), "engine.kind: 'rya' is not known; did you mean 'ray'"),
        (engine_assignments(None, "auto"), "--engine ray"),
        (["engine.workers=0"], "engine.workers: .*greater than or equal to 1"),
        (["engine.adress=auto"], "engine.adress: unknown key; did you mean 'address'"),
    ],
)
def test_what_cannot_be_meant_is_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        declared(*assignments)


def test_what_is_given_overrides_the_engine_of_a_version() -> None:
    declared = Engine(kind="ray", address="auto")
    assert engine_of(declared, None, None) == declared
    assert engine_of(declared, "local", None) == Engine()
    assert engine_of(Engine(), "ray", "head:6379") == Engine(kind="ray", address="head:6379")
    for kind, address, told in (("rai", None, "'local' or 'ray'"), ("local", "auto", "is of a Ray cluster")):
        with pytest.raises(BadInput, match=told):
            engine_of(declared, kind, address)


def test_what_is_declared_of_a_cluster_does_not_matter_here() -> None:
    assert declared("engine.kind=ray", "engine.address=auto", *engine_assignments("local", None)) == Engine()
