"""Batch inference: the answers of a version to many samples, in parts that outlive the process that made them.

Each chunk of the input becomes one part, written whole or not at all; parts are put together when the last is there.
Kept free of pandas and torch: the answering processes import this module alone, and so start quickly.

Shape legend: N samples, H height, W width, C channels, K classes, Q quantiles, T rows of a window, F features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from labline.data.decoding import SUFFIXES, Refusal, decode
from labline.data.storing import Read, open_container
from labline.errors import LablineError
from labline.packaged_model import PackagedModel, open_model
from labline.series.answers import class_probabilities, quantile_mean
from labline.sharding import Pool, refuse_elsewhere

if TYPE_CHECKING:
    from labline.batch_inputs import Chunk

Tensor = npt.NDArray[Any]
Progress = Callable[[int], None]

ANSWERS, REFUSED = ".answers.parquet", ".refused.parquet"
REFUSED_SCHEMA = pa.schema([(name, pa.string()) for name in ("sample_id", "expectation", "value", "reason")])
NOT_FINITE = "the model has no finite answer to it: its values are far from what it learned from"


@dataclass(frozen=True)
class Job:
    """What every answering process knows.

    `version`: the number that answers carry, of the version in the folder `model`; `content` and `column` as the
    input's listing has them; `quantiles`: the levels of a forecaster with that head; `windows`: where rows of a series
    became windows (see `labline.series.batch_windows`); `batch_size`: samples in one run of the model.
    """

    version: str
    model: Path
    content: Path
    column: str
    parts: Path
    batch_size: int
    max_pixels: int
    quantiles: tuple[float, ...] = ()
    windows: Path | None = None


@dataclass
class _Open:
    """What an answering process holds open."""

    job: Job
    model: PackagedModel
    read: Read | None
    arrays: dict[str, Tensor] = field(default_factory=dict)


def answer_chunks(job: Job, chunks: Iterable[Chunk], pool: Pool, on_progress: Progress) -> None:
    """Make the part of every chunk; `on_progress` is told the samples of each that is done.

    The processes of `pool` find model, input and parts under the same paths. Raises LablineError where a process dies
    or the model fails, OSError where a part finds no room.
    """
    try:
        for samples in pool.over(_answering, job, chunks):
            on_progress(samples)
    except BrokenExecutor as error:
        raise LablineError(
            "A process that answers died, most likely for want of memory: lower --batch-size or --workers, and "
            "run it again; it goes on where it was."
        ) from error


def finished_parts(parts: Path) -> set[int]:
    """The numbers of the chunks whose part is there."""
    return {int(path.name.removesuffix(ANSWERS)) for path in parts.glob(f"*{ANSWERS}") if path.name[0] != "."}


def put_together(parts: Path, out: Path, quarantine: Path) -> tuple[int, int]:
    """Write all parts, in the order of the input, to `out` (.csv or .parquet), and what was refused to `quarantine`.

    Both appear whole, or not at all; without a refusal there is no quarantine. Returns how many samples are in each.
    Never more than one part is in memory.
    """
    refused = _concatenate(sorted(parts.glob(f"[0-9]*{REFUSED}")), quarantine)
    if not refused:
        quarantine.unlink(missing_ok=True)
    return _concatenate(sorted(parts.glob(f"[0-9]*{ANSWERS}")), out), refused


def write_refused(parts: Path, number: int, refused: list[tuple[str, str, str, str]]) -> None:
    """Keep what was refused of a chunk: the sample's name, the kind of refusal, the value that shows it, the reason."""
    if refused:
        columns = [pa.array(column, pa.string()) for column in zip(*refused, strict=True)]
        _write_whole(pa.table(columns, schema=REFUSED_SCHEMA), parts / f"{number:08d}{REFUSED}")


# --- one chunk ---------------------------------------------------------------------------------------------------


def _answer(opened: _Open, chunk: Chunk) -> int:
    """Make the part of a chunk; the refusals first, for the answers say that it is finished."""
    names, inputs, refused = _inputs(opened, chunk)
    answers = _answers(opened, inputs)
    finite_N = np.isfinite(answers).all(axis=1)
    if not finite_N.all():
        unanswered = [names[i] for i in np.flatnonzero(~finite_N)]
        refused += [(str(name), "finite answer", "", NOT_FINITE) for name in unanswered]
        names, answers = [names[i] for i in np.flatnonzero(finite_N)], answers[finite_N]
    write_refused(opened.job.parts, chunk.number, refused)
    identity = _identity(opened, names)
    table = pa.table({**identity, **answer_columns(opened.model, answers, opened.job.quantiles)})
    versions = pa.array([opened.job.version] * len(names), pa.string())
    _write_whole(table.append_column("version", versions), opened.job.parts / f"{chunk.number:08d}{ANSWERS}")
    return chunk.samples


def answer_columns(model: PackagedModel, answers: Tensor, quantiles: tuple[float, ...] = ()) -> dict[str, Any]:
    """The columns of an answer, N each, as the service says them.

    Classes: label, confidence, and probability_<label> of each. Numbers: forecast_mean, and forecast_deviation or
    forecast_quantile_<level>. `answers` is what the model gives: float32 N x K, N x 2, N x Q or N x 1.
    """
    if model.labels:
        probabilities_NK = answers if model.kind == "image" else class_probabilities(answers)
        best_N = probabilities_NK.argmax(axis=1)
        shares = {f"probability_{label}": probabilities_NK[:, k] for k, label in enumerate(model.labels)}
        labels = pa.array([model.labels[k] for k in best_N], pa.string())
        return {"label": labels, "confidence": probabilities_NK.max(axis=1), **shares}
    if model.head == "gaussian":
        return {"forecast_mean": answers[:, 0], "forecast_deviation": answers[:, 1]}
    if model.head == "quantile":
        levels = {f"forecast_quantile_{level:g}": answers[:, q] for q, level in enumerate(quantiles)}
        return {"forecast_mean": quantile_mean(quantiles, answers), **levels}
    return {"forecast_mean": answers[:, 0]}


def _inputs(opened: _Open, chunk: Chunk) -> tuple[list[Any], Tensor, list[tuple[str, str, str, str]]]:
    """The names and inputs of the samples that can be asked about, and the refusals of the others."""
    rows = range(chunk.start, chunk.start + chunk.samples)
    if opened.job.windows is not None:
        return list(rows), _windows(opened, rows), []
    if opened.job.column == "row":
        inputs = np.ascontiguousarray(_array(opened, opened.job.content)[rows.start : rows.stop])
        finite_N = np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1)
        wrong = [str(rows[i]) for i in np.flatnonzero(~finite_N)]
        refused = [(name, "finite input", "", "it holds numbers that are not finite") for name in wrong]
        return [rows[i] for i in np.flatnonzero(finite_N)], inputs[finite_N], refused
    return _images(opened, chunk)


def _images(opened: _Open, chunk: Chunk) -> tuple[list[Any], Tensor, list[tuple[str, str, str, str]]]:
    """Files decoded as ingest decoded those that the version learned from."""
    height, width, channels = (size or 0 for size in opened.model.input.shape[1:])
    images_NHWC = np.empty((chunk.samples, height, width, channels), np.uint8)
    names: list[Any] = []
    refused: list[tuple[str, str, str, str]] = []
    for number, name in enumerate(chunk.names):
        encoded = _encoded(opened, chunk, number)
        found = encoded if isinstance(encoded, Refusal) else decode(encoded, height, channels, opened.job.max_pixels)
        if isinstance(found, Refusal):
            refused.append((_shown(name) or f"row {chunk.start + number}", found.kind, found.value, found.reason))
            continue
        images_NHWC[len(names)] = found.pixels
        names.append(_shown(name))
    return names, images_NHWC[: len(names)], refused


def _encoded(opened: _Open, chunk: Chunk, number: int) -> bytes | Refusal:
    if chunk.encoded is not None:
        return chunk.encoded[number] or Refusal("empty", "0 bytes", "there is no encoded image in its row")
    name = chunk.names[number]
    if not name:
        return Refusal("missing", "", "its row has no path")
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in SUFFIXES:
        return Refusal("not-an-image", suffix, "its name is not an image's")
    assert opened.read is not None
    return opened.read(name)


def _shown(name: str) -> str:
    """The name of a file as UTF-8, which not every file system asks for."""
    return os.fsencode(name).decode(errors="replace")


def _windows(opened: _Open, rows: range) -> Tensor:
    """Windows gathered from the features of all rows."""
    assert opened.job.windows is not None
    features_NF = _array(opened, opened.job.windows / "features.npy")
    ends = _array(opened, opened.job.windows / "ends.npy")[rows.start : rows.stop]
    window = opened.model.input.shape[1] or 1
    return np.asarray(features_NF[ends[:, None] + np.arange(1 - window, 1)])


def _identity(opened: _Open, names: list[Any]) -> dict[str, Any]:
    """What tells the samples apart: the path, id or row; of a series the moment and the entity."""
    if opened.job.windows is None:
        return {opened.job.column: pa.array(names, pa.int64() if opened.job.column == "row" else pa.string())}
    moments = _array(opened, opened.job.windows / "moments.npy")[names]
    codes = _array(opened, opened.job.windows / "entities.npy")[names]
    known = pq.read_table(opened.job.windows / "entities.parquet").column("entity")
    return {"timestamp": pa.array(moments, pa.timestamp("ns", "UTC")), "entity": known.take(pa.array(codes))}


def _answers(opened: _Open, inputs: Tensor) -> Tensor:
    size = opened.job.batch_size
    batches = [opened.model.predict(inputs[at : at + size]) for at in range(0, len(inputs), size)]
    return np.concatenate(batches) if batches else opened.model.predict(inputs)


# --- models and files --------------------------------------------------------------------------------------------


@contextmanager
def _answering(job: Job) -> Iterator[Callable[[Chunk], int]]:
    """Hold model and input open for chunks to be answered."""
    refuse_elsewhere(job.parts)
    with ExitStack() as files:
        yield partial(_answer, _opened(job, files))


def _opened(job: Job, files: ExitStack) -> _Open:
    holds_files = job.column == "path" and job.windows is None
    read = files.enter_context(open_container(job.content, job.max_pixels)) if holds_files else None
    return _Open(job, open_model(job.model), read)


def _array(opened: _Open, path: Path) -> Tensor:
    if path.name not in opened.arrays:
        opened.arrays[path.name] = np.load(path, mmap_mode="r", allow_pickle=False)
    return opened.arrays[path.name]


def _write_whole(table: pa.Table, path: Path) -> None:
    draft = path.with_name(f".{path.name}")
    pq.write_table(table, draft)
    draft.replace(path)


def _concatenate(paths: list[Path], out: Path) -> int:
    """One file of all, in which there are how many rows; nothing is written where there are none."""
    draft = out.with_name(f".{out.name}.draft")
    if not paths:
        return 0
    rows = 0
    schema = pq.read_schema(paths[0])
    writer: Any = pa.csv.CSVWriter(draft, schema) if out.suffix == ".csv" else pq.ParquetWriter(draft, schema)
    with writer:
        for path in paths:
            table = pq.read_table(path)
            writer.write_table(table)
            rows += table.num_rows
    draft.replace(out)
    return rows
