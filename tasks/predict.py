"""Predict: the answers of a version to many samples, in a file beside which nothing half-done is left."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from prefect import task
from prefect.cache_policies import NO_CACHE

from labline.engine import Engine
from labline.errors import BadInput, nearest
from labline.series.usecase import SeriesUseCase
from labline.sharding import Pool, processes, processors
from labline.usecase import ImageUseCase
from tasks.observer import StageRecord, observer
from tasks.shards import pool_of
from tasks.version import Version

if TYPE_CHECKING:
    from labline.batch_inference import Job
    from labline.batch_inputs import Listing
    from labline.packaged_model import PackagedModel

FORMATS = (".parquet", ".csv")
STAGE = "predict"
LOCAL = Engine()


@dataclass(frozen=True)
class Predicted:
    """What came of a batch: samples listed, answered and refused, those that an earlier run had answered, seconds."""

    out: Path
    quarantine: Path | None
    samples: int
    answered: int
    refused: int
    resumed: int
    seconds: float


@task(name=STAGE, task_run_name="predict-{out}", cache_policy=NO_CACHE, persist_result=False)
def predict(
    version: Version,
    source: Path,
    out: Path,
    batch_size: int = 64,
    workers: int | None = None,
    fresh: bool = False,
    engine: Engine = LOCAL,
) -> Predicted:
    """Let a version answer all samples in `source`, and write the answers to `out`, .parquet or .csv.

    Finished chunks are kept in `<out>.parts/` until all are: a run that was killed goes on there, unless it is asked to
    be `fresh`, or version, input or batch size are others. Files that cannot be read, and samples without an answer, go
    to `<out>.quarantine.parquet`. `workers` are processes, by default as many as there are processors; on a Ray
    `engine` all of the cluster's processors work, and its machines reach `source` and `out` under the same paths.
    Raises BadInput where `source`, `out` or the cluster cannot be used, LablineError where the version fails.
    """
    check_paths(source, out)
    began = time.perf_counter()
    watching = observer.get()
    watching.started(STAGE)
    try:
        with pool_of(engine) as pool, _parts_of(out) as parts:
            predicted = _predict(version, source, out, parts, batch_size, workers, fresh, began, pool)
            shutil.rmtree(parts)
    except OSError as error:
        watching.failed(STAGE)
        raise BadInput(f"--out {out}: it cannot be written ({error.strerror or error})") from error
    except BaseException:
        watching.failed(STAGE)
        raise
    watching.finished(StageRecord(STAGE, predicted.seconds, False, told(predicted)))
    return predicted


def told(predicted: Predicted) -> str:
    """What came of it, in words."""
    resumed = f", {predicted.resumed:,} of them by the run before" if predicted.resumed else ""
    refused = f"; {predicted.refused:,} refused, see {predicted.quarantine}" if predicted.refused else ""
    return f"{predicted.answered:,} of {predicted.samples:,} answered{resumed}{refused}"


def check_paths(source: Path, out: Path) -> None:
    """Raise BadInput where the answers cannot be written there."""
    if out.suffix not in FORMATS:
        raise BadInput(
            f"--out {out}: expected a file that ends in {' or '.join(FORMATS)}; {nearest(out.suffix, FORMATS)}"
        )
    if out.is_dir():
        raise BadInput(f"--out {out} is a folder; expected a file")
    if not out.parent.is_dir():
        raise BadInput(f"--out {out}: there is no folder {out.parent.absolute()}")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise BadInput(f"--out {out} lies in INPUT, which would change while it is read; choose a place outside")


@contextmanager
def _parts_of(out: Path) -> Iterator[Path]:
    """The folder of what is finished, held by this process alone."""
    parts = out.with_name(f"{out.name}.parts")
    parts.mkdir(exist_ok=True)
    if any(parts.iterdir()) and not ((parts / "key").exists() or (parts / ".lock").exists()):  # it would be deleted
        raise BadInput(f"--out {out}: {parts} holds files that labline predict did not write; choose another name")
    lock = FileLock(parts / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(f"--out {out}: another labline predict is writing it; wait for it, or choose another") from None
    try:
        yield parts
    finally:
        lock.release()


def _predict(
    version: Version,
    source: Path,
    out: Path,
    parts: Path,
    batch_size: int,
    workers: int | None,
    fresh: bool,
    began: float,
    pool: Pool | None,
) -> Predicted:
    from labline.batch_inference import answer_chunks, finished_parts, put_together
    from labline.packaged_model import open_model

    listing, job, refused = _prepared(version, open_model(version.folder), source, parts, batch_size, fresh)
    finished = finished_parts(parts)
    resumed = sum(min(listing.chunk, listing.samples - number * listing.chunk) for number in finished)
    done = resumed

    def progressed(samples: int) -> None:
        nonlocal done
        done += samples
        rate = (done - resumed) / (time.perf_counter() - began)
        text = f"{done:,} of {listing.samples:,}, {rate:,.0f}/s"
        observer.get().progressed(STAGE, done, listing.samples, text)

    left = listing.chunks - len(finished)
    if left:
        if pool is not None:  # whose machines do not see where the version was downloaded to
            job = replace(job, model=Path(shutil.copytree(job.model, parts / "model", dirs_exist_ok=True)))
        own = processes(min(workers or processors(), left))
        with own if pool is None else nullcontext(pool) as answering:
            answer_chunks(job, listing.read(finished), answering, progressed)
    quarantine = out.with_name(f"{out.name}.quarantine.parquet")
    answered, unanswered = put_together(parts, out, quarantine)
    seconds = time.perf_counter() - began
    place = quarantine if unanswered else None
    return Predicted(out, place, listing.samples + refused, answered, unanswered, resumed, seconds)


def _prepared(
    version: Version, model: PackagedModel, source: Path, parts: Path, batch_size: int, fresh: bool
) -> tuple[Listing, Job, int]:
    """What is to be answered and how; what other runs left in `parts` is kept only where it is of the same."""
    from labline.batch_inference import Job, write_refused
    from labline.batch_inputs import Listing, digest_of_files, is_series_table, list_input

    declaration = version.declaration
    table = isinstance(declaration, SeriesUseCase) and is_series_table(source, model.kind)
    if table and source.is_file():
        listed, digest = None, digest_of_files(source.parent, [source.name])
    else:
        listed = list_input(source, model.kind, model.input)
        digest = listed.digest
    facts = [version.usecase, version.number, version.tags.get("chosen.sha256", ""), str(source.resolve()), digest]
    _keep_parts_of(parts, hashlib.sha256(json.dumps([*facts, batch_size]).encode()).hexdigest(), fresh)
    quantiles = tuple(declaration.model.quantiles) if isinstance(declaration, SeriesUseCase) else ()
    pixels = declaration.data.max_pixels if isinstance(declaration, ImageUseCase) else 0
    if listed is not None:
        job = Job(version.number, version.folder, listed.content, listed.column, parts, batch_size, pixels, quantiles)
        return listed, job, 0
    assert isinstance(declaration, SeriesUseCase)
    from labline.batch_inputs import SAMPLES_A_CHUNK
    from labline.series.batch_windows import write_windows

    windows, refused = write_windows(source, declaration, parts)
    listing = Listing(source, "row", windows, digest, SAMPLES_A_CHUNK)
    write_refused(parts, listing.chunks, refused)
    job = Job(version.number, version.folder, source, "row", parts, batch_size, 0, quantiles, parts)
    return listing, job, len(refused)


def _keep_parts_of(parts: Path, key: str, fresh: bool) -> None:
    """Empty the folder unless its parts are of the run that `key` stands for."""
    note = parts / "key"
    if fresh or not note.is_file() or note.read_text() != key:
        for path in parts.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()
        note.write_text(key)
