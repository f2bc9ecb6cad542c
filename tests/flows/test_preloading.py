"""What is imported while a run waits for Prefect's server: what exists, and no longer than it waits."""

from __future__ import annotations

import gc
import sys
from importlib.util import find_spec

import pytest

from flows import preloading


def test_everything_on_the_list_is_there() -> None:
    assert [name for name in preloading.MODULES if find_spec(name.partition(".")[0]) is None] == []


def test_it_ends_with_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preloading, "MODULES", ("this", "antigravity_is_not_reached"))
    monkeypatch.delitem(sys.modules, "this", raising=False)
    answers = iter((True, False))
    preloading.preload(lambda: next(answers))
    assert "this" in sys.modules


def test_what_is_imported_is_not_looked_through_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = []
    monkeypatch.setattr(preloading.atexit, "register", registered.append)
    before = gc.get_threshold()
    try:
        gc.set_threshold(700)  # Python's own; in this process a run may have raised it already
        preloading.collect_rarely()
        assert gc.isenabled() and gc.get_threshold()[0] > 700
        assert registered == [gc.freeze]
    finally:
        gc.set_threshold(*before)
