"""Patience with servers: a connection that is lost is tried again for two minutes, everything else is told at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from tasks.observer import observer
from tasks.stage import is_transient, lost_connection

Result = TypeVar("Result")

DELAYS = [5, 10, 15, 20, 30, 40]  # seconds: a server that is started anew is back by then
WAITING = "a server does not answer: trying again, for two minutes"


def worth_waiting(task: object, run: object, state: Any) -> bool:
    """Whether a Prefect task is to be tried again; says so to whoever watches."""
    if not is_transient(task, run, state):
        return False
    observer.get().said(WAITING)
    return True


def patiently(work: Callable[[], Result]) -> Result:
    """What `work` returns, which is tried again where a connection was lost: a flow, whose stages are not repeated."""
    for delay in DELAYS:
        try:
            return work()
        except Exception as error:
            if not lost_connection(error):
                raise
            observer.get().said(WAITING)
        time.sleep(delay)
    return work()
