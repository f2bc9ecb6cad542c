"""Small real versions of forecasters, saved as the register stage saves them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from labline.models import build_series
from labline.series.declaration import Head
from labline.series.export import export_forecaster
from labline.series.forecaster import Forecaster, head_outputs

WINDOW, FEATURES = 12, 3
TARGET_STD = 0.5  # in the unit of the target


def small_forecaster(head: Head = "gaussian") -> Forecaster:
    """An untrained network with scalers, the same for the same head."""
    backbone = build_series("rnn", FEATURES, WINDOW, head_outputs(head), width=0.25, seed=0)
    mean, std = torch.full((FEATURES,), 50.0), torch.full((FEATURES,), 20.0)
    scale = {} if head == "classes" else {"target_mean": -2.0, "target_std": TARGET_STD}
    return Forecaster(backbone, mean, std, head=head, **scale).eval()


def save_forecaster(graph: Path, folder: Path, windows: np.ndarray, head: Head = "gaussian") -> Path:
    """A version as `tasks/series/register.py` logs it, as far as serving reads it."""
    import mlflow.onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    declaration, profile = graph.parent / "usecase.toml", graph.parent / "baseline.json"
    declaration.write_text(f'name = "small"\nmodality = "series"\n[model]\nhead = "{head}"\n')
    profile.write_text(json.dumps({"targets": {"std": TARGET_STD}}))
    asked = TensorSpec(np.dtype(np.float32), (-1, WINDOW, FEATURES), "windows")
    answered = TensorSpec(np.dtype(np.float32), (-1, head_outputs(head)), "forecast")
    mlflow.onnx.save_model(
        onnx.load(graph),
        str(folder),
        signature=ModelSignature(inputs=Schema([asked]), outputs=Schema([answered])),
        input_example=windows[:2],
        pip_requirements=["onnxruntime"],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
        extra_files=[str(declaration), str(profile)],
    )
    return folder


@pytest.fixture(scope="session")
def windows() -> np.ndarray:
    """Raw windows, float32 64 x T x F."""
    return np.random.default_rng(0).normal(50, 20, (64, WINDOW, FEATURES)).astype(np.float32)


class Forecasters(dict[str, Path]):
    """A version a head, made when it is first asked for; not to be written to."""

    def __init__(self, windows: np.ndarray, factory: pytest.TempPathFactory) -> None:
        super().__init__()
        self._windows = windows
        self._factory = factory

    def __missing__(self, head: Head) -> Path:
        scratch = self._factory.mktemp(head)
        graph = export_forecaster(small_forecaster(head), scratch / "model.onnx", WINDOW, FEATURES)
        self[head] = save_forecaster(graph, scratch / "version", self._windows, head)
        return self[head]


@pytest.fixture(scope="session")
def forecasters(windows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Forecasters:
    """Small real versions of every head."""
    return Forecasters(windows, tmp_path_factory)
