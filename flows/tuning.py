"""The tuning flow: from a declared space to a declaration with better settings, and how sure that is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.environment import USECASES, load_environment, storage_root

load_environment()

from prefect import flow, task  # noqa: E402  (Prefect reads its settings when it is imported)
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.futures import PrefectFuture, as_completed  # noqa: E402
from prefect.states import Cancelled, Completed, Failed  # noqa: E402
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner  # noqa: E402

from flows.summary import page_links, stage_rows  # noqa: E402
from labline.declaration import load_usecase, own_modules, read_declaration  # noqa: E402
from labline.engine import Engine  # noqa: E402
from labline.errors import LablineError  # noqa: E402
from labline.references import DatasetRef  # noqa: E402
from labline.series.usecase import SeriesUseCase  # noqa: E402
from labline.tuning.space import apply, space_of  # noqa: E402
from labline.tuning.study import Attempt, attempts, tried  # noqa: E402
from labline.usecase import ImageUseCase, UseCase  # noqa: E402
from tasks.augment import augment  # noqa: E402
from tasks.clean import clean  # noqa: E402
from tasks.cluster import cluster_processors, engaged  # noqa: E402
from tasks.found import Found, judge, show, write_winner  # noqa: E402
from tasks.ingest import ingest  # noqa: E402
from tasks.observer import StageRecord, observer  # noqa: E402
from tasks.ray_trials import ray_runner  # noqa: E402
from tasks.searching import (  # noqa: E402
    Search,
    SearchRecording,
    alone_in_tuning,
    begin,
    close_runs,
    comparable,
    next_order,
    recorded,
    refuse,
    take_up_lost,
    unrecorded,
)
from tasks.series.clean import clean as clean_series  # noqa: E402
from tasks.series.ingest import ingest as ingest_series  # noqa: E402
from tasks.series.train import train as train_series  # noqa: E402
from tasks.series.validate import validate as validate_series  # noqa: E402
from tasks.train import train  # noqa: E402
from tasks.trial import TrialOrder, carry_out  # noqa: E402
from tasks.turn import turn  # noqa: E402
from tasks.validate import validate  # noqa: E402


@flow(name="tuning", flow_run_name="tuning-{usecase}", persist_result=False)
def tuning(
    usecase: str = "surface",
    data: str | None = None,
    assignments: list[str] | None = None,
    trials: int | None = None,
    timeout_minutes: float | None = None,
    parallel: int = 1,
    fresh: bool = False,
    out: str | None = None,
) -> dict[str, Any]:
    """Search for better settings of a use case, beginning with those that it declares.

    `trials` and `timeout_minutes` override `[tuning]`; `parallel` trials train at once, in processes of their own or on
    the declared Ray cluster; a study of the same declaration and data is gone on with up to `trials` in all, unless
    `fresh`. Writes the winner to `out` (default: NAME.tuned.toml beside the declaration) and returns the summary that
    `labline tune --json` prints. Raises BadInput or LablineError.
    """
    begun = time.time()
    own_modules(usecase)
    declaration = load_usecase(usecase, USECASES, assignments or (), data)
    space = space_of(declaration)
    declaration = comparable(declaration, space)
    minutes = timeout_minutes or declaration.tuning.timeout_minutes
    deadline = begun + 60 * minutes if minutes else None
    with engaged(declaration.engine), alone_in_tuning(declaration.name), recorded(declaration) as record:
        with turn(declaration.name, storage_root()):
            dataset, training_key = prepare(declaration)
        search = begin(usecase, declaration, space, dataset, training_key, fresh)
        record.belong_to(search.study)
        resume(search, record)
        threads = threads_of(parallel, declaration.engine)
        orders = wanted(search, record.run_id, trials or declaration.tuning.trials, deadline, threads)
        if threads is None:
            one_by_one(search, orders)
        else:
            several_at_once(search, orders, parallel, declaration.engine)
        return conclude(search, record, usecase, data, assignments or [], out)


def prepare(declaration: UseCase) -> tuple[DatasetRef, str]:
    """The data stages, cached as ever, and a digest of all that then decides training, by one process a trial."""
    alone = declaration.model_copy(update={"engine": Engine()})
    if isinstance(declaration, SeriesUseCase):
        series = clean_series(declaration, validate_series(declaration, ingest_series(declaration)))
        return series, train_series.key(alone, series)
    assert isinstance(declaration, ImageUseCase)
    images = clean(declaration, validate(declaration, ingest(declaration)))
    return images, train.key(alone, images, augment(declaration, images))


def resume(search: Search, record: SearchRecording) -> None:
    """Take up what a search that was killed has left, and say how far it had come."""
    lost = take_up_lost(search)
    close_runs(search, record)
    if done := tried(search.study):
        broken_off = f", {lost} broken off and taken up again" if lost else ""
        observer.get().said(f"study {search.study.study_name}: {len(done)} trials are known{broken_off}")


def trial_runner(parallel: int, engine: Engine) -> AbstractContextManager[TaskRunner[Any]]:
    """Where trials run that are not run right here: in processes, because torch's random numbers belong to one."""
    return ProcessPoolTaskRunner(max_workers=parallel) if engine.kind == "local" else ray_runner(parallel)


@task(name="trial", task_run_name="trial-{order.index}", persist_result=False)
def run_trial(order: TrialOrder) -> State[Any]:
    """Train one trial; its state on the Prefect page says how it ended."""
    ended = carry_out(order)
    if ended == "failed":
        return Failed(message="its settings could not be trained: its MLflow run says why")
    if ended == "running":
        return Cancelled(message="out of time: the next search takes it up")
    return Completed(name="Pruned" if ended == "pruned" else None, message=ended)


def one_by_one(search: Search, orders: Iterator[tuple[TrialOrder, float]]) -> None:
    """Train each trial right here, where Ctrl-C reaches it."""
    for order, begun in orders:
        settle(search, order, begun, run_trial(order, return_state=True))


def several_at_once(search: Search, orders: Iterator[tuple[TrialOrder, float]], parallel: int, engine: Engine) -> None:
    """Keep so many trials training; what one came to is known before the next is proposed."""
    flying: dict[PrefectFuture[Any], tuple[TrialOrder, float]] = {}
    with trial_runner(parallel, engine) as runner:
        while True:
            while len(flying) < parallel and (found := next(orders, None)) is not None:
                flying[runner.submit(run_trial, {"order": found[0]})] = found
            if not flying:
                return
            future = next(as_completed(list(flying)))
            future.wait()  # it may only know that it has ended, not how
            settle(search, *flying.pop(future), future.state)


def wanted(
    search: Search, parent: str, trials: int, deadline: float | None, threads: int | None
) -> Iterator[tuple[TrialOrder, float]]:
    """Orders of trials that can be trained, each with when it was given, as long as more are wanted."""
    prepared: dict[Any, DatasetRef] = {}
    while len(tried(search.study)) < trials and (deadline is None or time.time() < deadline):
        order = next_order(search, parent, threads, deadline)
        observer.get().started(f"trial {order.index}")
        begun = time.time()
        try:
            declaration = apply(search.declaration, order.parameters) if order.index else search.declaration
            window = order.parameters.get("features.window")
            if order.index and window is not None and window not in prepared:
                with unrecorded(declaration):
                    prepared[window], _ = prepare(declaration)
        except LablineError as error:
            refuse(search, order, str(error))
            settle(search, order, begun, None)
            continue
        dataset = prepared[window] if order.index and window is not None else search.dataset
        yield replace(order, declaration=declaration.model_dump_json(), dataset=dataset.directory), begun


def threads_of(parallel: int, engine: Engine) -> int | None:
    """Torch's threads for each of several trials at once: they share what one would have; None: right here."""
    if parallel == 1 and engine.kind == "local":
        return None
    there = os.cpu_count() or 1 if engine.kind == "local" else int(cluster_processors())
    return max(1, int(os.environ.get("OMP_NUM_THREADS") or there) // parallel)


def settle(search: Search, order: TrialOrder, begun: float, state: State[Any] | None) -> None:
    """Tell how a trial ended. What no trial can help, such as a full disk or a lost server, ends the search."""
    name, seconds = f"trial {order.index}", time.time() - begun
    attempt = next(each for each in attempts(search.study) if each.index == order.index)
    if attempt.state == "running" and state is not None and state.is_cancelled():
        said = f"out of time after epoch {attempt.epochs}: the next search takes it up"
        observer.get().finished(StageRecord(name, seconds, False, said))
    elif attempt.state == "running":
        observer.get().failed(name)
        if state is not None:
            state.result()
    elif attempt.state == "failed" and attempt.index == 0:
        observer.get().failed(name)
        raise LablineError(f"the declaration itself cannot be trained: {attempt.note}")
    else:
        observer.get().finished(StageRecord(name, seconds, False, told(search, attempt)))


def told(search: Search, attempt: Attempt) -> str:
    """A trial in a line."""
    if attempt.state == "failed":
        return f"failed: {attempt.note}"
    figures = attempt.note or f"{search.metric} {attempt.metric:.4f}"
    if search.both:
        figures += f", {attempt.latency:.3f} ms"
    return figures if attempt.index else f"{figures}, as declared"


def conclude(
    search: Search, record: SearchRecording, usecase: str, data: str | None, assignments: list[str], out: str | None
) -> dict[str, Any]:
    """Choose the winner, write it as a declaration, and show what was found."""
    take_up_lost(search)  # what ran out of time waits for the next search
    source, declared = read_declaration(usecase, USECASES, assignments, data)
    target = Path(out) if out else source.with_name(source.stem.removesuffix(".tuned") + ".tuned.toml")
    found = judge(search)
    write_winner(search, found, declared, source, target)
    show(search, found, record, target)
    return summary(search, found, record, target)


def summary(search: Search, found: Found, record: SearchRecording, out: Path) -> dict[str, Any]:
    """What `labline tune --json` prints; documented in docs/tuning.md."""
    gain = found.gain
    return {
        "usecase": search.declaration.name,
        "study": search.study.study_name,
        "metric": search.metric,
        "higher_is_better": search.higher,
        "objectives": search.declaration.tuning.objectives,
        "trials": [vars(attempt) for attempt in found.attempts],
        "winner": found.winner.index,
        "settings": found.changed,
        "declared_metric": gain.declared,
        "declared_interval": gain.declared_interval,
        "winner_metric": gain.winner,
        "winner_interval": gain.winner_interval,
        "gain": gain.difference,
        "expected_gain": gain.expected,
        "expected_gain_interval": gain.expected_interval,
        "gain_is_shown": gain.is_shown,
        "verdict": gain.verdict,
        "latencies": found.latencies,
        "importances": found.importances,
        "out": str(out),
        "run_id": record.run_id,
        "stages": stage_rows(record.stages),
        "links": page_links(record.run_id),
    }
