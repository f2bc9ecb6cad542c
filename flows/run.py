"""`labline run` and `check`: a flow with a person watching."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flows.accounts import check_accounts
from flows.preloading import collect_rarely, preload
from labline.series.usecase import SeriesUseCase
from labline.usecase import UseCase
from tasks.cluster import require_cluster
from tasks.environment import USECASES, load_environment


def run_training(usecase: str, data: str | None, assignments: list[str], fresh: bool, reason: str, json: bool) -> None:
    """Run the flow of the use case's modality, show its progress, and close with the tables and where to look."""
    with _prepared(usecase, data, assignments) as declaration:
        if isinstance(declaration, SeriesUseCase):
            from flows.forecasting import forecasting as flow
        else:
            from flows.training import training as flow

    summary = watched(lambda: flow(usecase, data, assignments, fresh, reason))
    _close(summary, json)


def run_checking(usecase: str, data: str | None, assignments: list[str], json: bool) -> None:
    """Run the stages that look at data, and close with what they found."""
    with _prepared(usecase, data, assignments):
        from flows.checking import checking

    _close(watched(lambda: checking(usecase, data, assignments)), json)


@contextlib.contextmanager
def _prepared(usecase: str, data: str | None, assignments: list[str]) -> Iterator[UseCase]:
    """Refuse a bad declaration before anything slow."""
    from labline.declaration import load_usecase

    load_environment()
    declaration = load_usecase(usecase, USECASES, assignments, data)
    require_cluster(declaration.engine)
    with embedded_server(meanwhile=preload):
        yield declaration


@contextlib.contextmanager
def embedded_server(meanwhile: Callable[[Callable[[], bool]], None] | None = None) -> Iterator[None]:
    """Have Prefect's embedded server, where none is configured, start while we import what is needed inside.

    `meanwhile` is called then with a function that says whether there is still something to wait for. Raises BadInput
    where a server that is configured refuses the account: hours of work would end with it.
    """
    check_accounts(os.environ.get("PREFECT_API_URL", ""), os.environ["MLFLOW_TRACKING_URI"])
    _quiet_libraries()
    collect_rarely()
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(_start_embedded_server)
        yield
        if meanwhile is not None:
            meanwhile(lambda: not starting.done())
        starting.result()


def _quiet_libraries() -> None:
    """Keep the console for labline's one message: what these print comes as an exception as well, or is no loss."""
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints a traceback, then raises
    logging.raiseExceptions = False  # a log line that Prefect's server did not take


def _start_embedded_server() -> None:
    """Prefect starts its embedded server when the first flow asks for it; asking early saves the wait."""
    from prefect.logging.configuration import setup_logging
    from prefect.server.api.server import SubprocessASGIServer

    setup_logging()
    if hasattr(signal, "pthread_sigmask"):
        # Ctrl-C reaches every process of the terminal. The server inherits this thread's mask, so it stays to hear
        # how the interrupted flow ended, and is stopped when this process exits.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    SubprocessASGIServer().start()


def watched(flow: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a flow with its progress on the console."""
    from flows.console import ConsoleObserver
    from tasks.observer import observer

    with ConsoleObserver() as console:
        token = observer.set(console)
        try:
            return flow()
        finally:
            observer.reset(token)


def _close(summary: dict[str, Any], json: bool) -> None:
    from rich.console import Console

    from flows.console import candidate_table, print_json_line, rival_table, stage_table

    console = Console(stderr=json, highlight=False)
    console.print(stage_table(summary["stages"]))
    if summary.get("candidates"):
        console.print(candidate_table(summary["candidates"], summary["unit"]))
        console.print(summary["reason"])
    if summary.get("tflite_reason"):
        console.print(f"tflite: {summary['tflite_reason']}")
    if summary.get("rivals"):
        console.print(rival_table(summary["rivals"]))
    if summary.get("verdict"):
        console.print(summary["verdict"])
    for line in summary.get("links", []):
        console.print(line, soft_wrap=True)
    if json:
        print_json_line(summary)
