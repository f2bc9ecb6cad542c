"""Speed of exported models, measured side by side on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.errors import BadInput
from labline.export.onnx_runtime import session
from labline.export.tflite_runtime import SUFFIX, interpreter, tflite_run

BATCH = 64
SINGLES_PER_TURN = 10

Model = Callable[[npt.NDArray[np.generic]], object]


def measure(
    paths: Mapping[str, Path], samples: npt.NDArray[np.generic], seconds: float = 1.5, threads: int = 1
) -> pd.DataFrame:
    """Latency at batch 1 and throughput at batch 64 of several ONNX and TensorFlow Lite files, taking turns.

    A turn is ten single samples and one batch; models take turns in alternating order (ABBA), so that another
    program's load, a clock change or a warming chip hits all alike. `seconds` bounds the time spent on each model after
    warm-up, with at least three turns. `samples` are what the files' one input takes, repeated as needed: images as
    uint8 NHWC, windows as float32 NTF. A TensorFlow Lite file takes one sample at a time: its throughput is that of
    64 single ones, one over the latency at batch 1.
    Returns one row a model: name, latency_ms_p50, latency_ms_p99 (milliseconds for one sample) and throughput (samples
    a second, from the median batch). Raises BadInput where there is nothing to measure.
    """
    if not paths or len(samples) == 0:
        raise BadInput(f"measuring needs models and samples, got {len(paths)} models and {len(samples)} samples.")
    batch = np.resize(samples, (BATCH, *samples.shape[1:]))
    models = {name: _opened(path, threads) for name, path in paths.items()}
    single_seconds: dict[str, list[float]] = {name: [] for name in paths}
    batch_seconds: dict[str, list[float]] = {name: [] for name in paths}
    order = list(paths)
    for name in order:
        _turn(models[name], batch)  # warm-up: allocates the arenas, decides nothing
    deadline = time.perf_counter() + seconds * len(order)
    turns = 0
    while turns < 3 or time.perf_counter() < deadline:
        for name in order:
            singles, whole = _turn(models[name], batch)
            single_seconds[name] += singles
            batch_seconds[name].append(whole)
        order.reverse()
        turns += 1
    return pd.DataFrame(
        {
            "name": name,
            "latency_ms_p50": 1e3 * float(np.median(single_seconds[name])),
            "latency_ms_p99": 1e3 * float(np.quantile(single_seconds[name], 0.99)),
            "throughput": BATCH / float(np.median(batch_seconds[name])),
        }
        for name in paths
    )


def _opened(path: Path, threads: int) -> Model:
    """A function that runs the file on a batch and fetches its answers."""
    if path.suffix == SUFFIX:
        return partial(tflite_run, interpreter(path, threads))
    model = session(path, threads)
    name = model.get_inputs()[0].name
    return lambda samples: model.run(None, {name: samples})


def _turn(model: Model, batch: npt.NDArray[np.generic]) -> tuple[list[float], float]:
    """Seconds of each single sample, and of the whole batch."""
    # The first single refills the caches that the model before left cold, and is not counted.
    singles = [_seconds(model, batch[i : i + 1]) for i in range(SINGLES_PER_TURN + 1)][1:]
    return singles, _seconds(model, batch)


def _seconds(model: Model, samples: npt.NDArray[np.generic]) -> float:
    started = time.perf_counter()
    model(samples)
    return time.perf_counter() - started
