"""What a training run imports sooner or later, imported while it waits for Prefect's server; and cheap collections.

In the order of use. Each import is one that every run makes whose stages are not all cached: where the server is
quicker than they are, the rest is imported where it is needed.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
from collections.abc import Callable, Iterator
from functools import partial

MODULES = (
    "sklearn.model_selection",
    "mlflow.tracking.client",
    "mlflow.store.tracking.sqlalchemy_store",
    "great_expectations.expectations.registry",
    "torch",
    "torchvision",
    "matplotlib.pyplot",
    "onnx",
    "onnxruntime.quantization",
)
YOUNG = 20_000  # objects; 700 by default, which goes through all of a million while they are still being imported


def preload(waiting: Callable[[], bool]) -> None:
    """Import and open what is needed later for as long as there is something to wait for."""
    for load in _loads():
        if not waiting():
            return
        load()


def collect_rarely() -> None:
    """Make Python's garbage collector cost what it is worth to a process that imports a million objects and ends.

    They are no garbage: looking through them again and again took 2.4 of 8.7 seconds of imports, and once more at the
    end another 2.4 (processor time; Python 3.11 with torch, MLflow and Great Expectations).
    """
    gc.set_threshold(YOUNG, 10, 10)
    atexit.register(gc.freeze)


def _loads() -> Iterator[Callable[[], object]]:
    for name in MODULES:
        yield partial(importlib.import_module, name)
        if name.endswith("sqlalchemy_store") and os.environ.get("MLFLOW_TRACKING_URI", "").startswith("sqlite"):
            yield _make_database


def _make_database() -> None:
    """MLflow makes its tables, a second's work, when a client first looks."""
    from mlflow import MlflowClient

    MlflowClient().search_experiments(max_results=1)
