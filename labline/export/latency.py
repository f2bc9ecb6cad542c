"""Speed of exported models, measured side by side on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd

from labline.errors import BadInput
from labline.export.onnx_runtime import INPUT, session

BATCH = 64
SINGLES_PER_TURN = 10


def measure(
    paths: Mapping[str, Path], images: npt.NDArray[np.uint8], seconds: float = 1.5, threads: int = 1
) -> pd.DataFrame:
    """Latency at batch 1 and throughput at batch 64 of several ONNX files, taking turns.

    A turn is ten single images and one batch; models take turns in alternating order (ABBA), so that another
    program's load, a clock change or a warming chip hits all alike. `seconds` bounds the time spent on each model after
    warm-up, with at least three turns. `images` are uint8 NHWC samples, repeated as needed.
    Returns one row a model: name, latency_ms_p50, latency_ms_p99 (milliseconds for one image) and throughput (images a
    second, from the median batch). Raises BadInput where there is nothing to measure.
    """
    if not paths or len(images) == 0:
        raise BadInput(f"measuring needs models and images, got {len(paths)} models and {len(images)} images.")
    batch = np.resize(images, (BATCH, *images.shape[1:]))
    sessions = {name: session(path, threads) for name, path in paths.items()}
    single_seconds: dict[str, list[float]] = {name: [] for name in paths}
    batch_seconds: dict[str, list[float]] = {name: [] for name in paths}
    order = list(paths)
    for name in order:
        _turn(sessions[name], batch)  # warm-up: allocates the arenas, decides nothing
    deadline = time.perf_counter() + seconds * len(order)
    turns = 0
    while turns < 3 or time.perf_counter() < deadline:
        for name in order:
            singles, whole = _turn(sessions[name], batch)
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


def _turn(model: onnxruntime.InferenceSession, batch: npt.NDArray[np.uint8]) -> tuple[list[float], float]:
    """Seconds of each single image, and of the whole batch."""
    # The first single refills the caches that the model before left cold, and is not counted.
    singles = [_seconds(model, batch[i : i + 1]) for i in range(SINGLES_PER_TURN + 1)][1:]
    return singles, _seconds(model, batch)


def _seconds(model: onnxruntime.InferenceSession, images: npt.NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    model.run(None, {INPUT: images})
    return time.perf_counter() - started
