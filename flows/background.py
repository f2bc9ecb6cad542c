"""Prefect's background services in this process's place, which ends as soon as one of them does: `-m flows.background`.

`prefect server services start` goes on without it: where the database was away, or had no tables yet, at the moment
when they began, the triggers are gone without a word, and no event starts a flow any more. Whoever runs this starts
it again.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

Begin = Callable[[Any], Coroutine[Any, Any, None]]


def main() -> None:
    """Run all that are enabled; the process ends with code 1, and says why, where one of them ends with an error."""
    from docket import Worker
    from prefect.cli._server_utils import _run_all_services
    from prefect.logging.configuration import setup_logging
    from prefect.server.services.base import Service

    setup_logging()
    for service in Service.enabled_services():
        service.start = _vital(service.start)  # type: ignore[method-assign,assignment]
    # The scheduler and whatever else runs by the clock: nobody waits for it until the end.
    Worker.run_forever = _vital(Worker.run_forever)  # type: ignore[method-assign,assignment]
    asyncio.run(_run_all_services())


def _vital(start: Begin) -> Begin:
    """A service's `start`, without which this process is of no use."""

    @wraps(start)
    async def watched(service: Any) -> None:
        try:
            await start(service)
        except Exception:
            traceback.print_exc()
            print(f"{type(service).__name__} has ended, and so does this process", file=sys.stderr, flush=True)
            os._exit(1)  # the other services would be waited for, and some of them wait for this one

    return watched


if __name__ == "__main__":
    main()
