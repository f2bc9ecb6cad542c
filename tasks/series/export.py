"""Export: the released files, and the proof that they agree with PyTorch."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

from labline.errors import LablineError
from labline.references import CompressedModel, DatasetRef, ExportedModel, TrainedModel
from labline.series.usecase import SeriesUseCase
from tasks.stage import stage
from tasks.tflite import RELEASED, TFLiteRelease, keep_released
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from labline.series.dataset import SeriesDataset
    from labline.series.export import ForecastParity
    from labline.series.forecaster import Forecaster


@stage(sections=("export", "model", "features", "training", "compression", "augmentation"))
def export(
    declaration: SeriesUseCase,
    dataset: DatasetRef,
    trained: TrainedModel,
    compressed: CompressedModel,
    *,
    workspace: Workspace,
) -> ExportedModel:
    """Release fp32 and chosen file of each format; the fp32 one must forecast as PyTorch does on real test windows."""
    from labline.export.onnx_runtime import session
    from labline.series.dataset import open_series, windows
    from labline.series.export import forecast_parity, onnx_forecasts
    from labline.series.weights import load_forecaster

    data = open_series(workspace.resolve(dataset.directory))
    test, candidates = windows(data, "test"), workspace.resolve(compressed.directory)
    released = {"model.onnx": "fp32", "chosen.onnx": compressed.chosen}
    for name, candidate in released.items():
        shutil.copy(candidates / f"{candidate}.onnx", workspace.path / name)
    model = load_forecaster(workspace.resolve(trained.directory) / "model.safetensors", declaration)
    fp32, chosen = (
        forecast_parity(model, onnx_forecasts(session(workspace.path / name), test), test) for name in released
    )
    figures = _figures(fp32, chosen)
    workspace.metrics({f"parity_{name}": value for name, value in figures.items()})
    _check("model.onnx", fp32)
    tflite = TFLiteRelease()
    if "tflite" in declaration.export.formats:
        tflite = _release_tflite(declaration, data, model, workspace)
    digest = hashlib.sha256()
    for name in (*released, *(RELEASED if tflite.candidates else ())):
        digest.update((workspace.path / name).read_bytes())
    furthest = max(fp32.max_abs_difference, tflite.parity.get("tflite_max_abs_difference", 0.0))
    return ExportedModel(
        directory=workspace.name,
        digest=digest.hexdigest(),
        chosen=compressed.chosen,
        parity=figures | tflite.parity,
        candidates=tflite.candidates,
        tflite_reason=tflite.reason,
        figure=f"{' and '.join(declaration.export.formats)}: as PyTorch on {fp32.samples:,} windows, "
        f"within {furthest:.1e}",
    )


def _release_tflite(
    declaration: SeriesUseCase, data: SeriesDataset, model: Forecaster, workspace: Workspace
) -> TFLiteRelease:
    from labline.series.dataset import windows
    from labline.series.export import forecast_parity
    from labline.series.tflite import search_forecasters_tflite, tflite_forecasts
    from labline.series.weights import forecast_settings

    test = windows(data, "test")
    found = search_forecasters_tflite(
        model,
        declaration.compression,
        declaration.features,
        windows(data, "validation"),
        forecast_settings(declaration),
        workspace.path / "tflite",
    )
    candidates = keep_released(found, workspace)
    fp32, chosen = (forecast_parity(model, tflite_forecasts(workspace.path / name, test), test) for name in RELEASED)
    figures = {f"tflite_{name}": value for name, value in _figures(fp32, chosen).items() if name != "samples"}
    workspace.metrics({f"parity_{name}": value for name, value in figures.items()})
    _check(RELEASED[0], fp32)
    return TFLiteRelease(candidates, found.reason, figures)


def _figures(fp32: ForecastParity, chosen: ForecastParity) -> dict[str, float]:
    return {
        "max_abs_difference": fp32.max_abs_difference,
        "decision_agreement": fp32.decision_agreement,
        "samples": float(fp32.samples),
        "chosen_max_abs_difference": chosen.max_abs_difference,
        "chosen_decision_agreement": chosen.decision_agreement,
    }


def _check(name: str, parity: ForecastParity) -> None:
    from labline.series.export import TOLERANCE

    if parity.decision_agreement < 1:
        raise LablineError(
            f"{name} and PyTorch differ by up to {parity.max_abs_difference:.2g} on test windows, on "
            f"{1 - parity.decision_agreement:.2%} of them by more than {TOLERANCE:g} of the target's standard "
            "deviation: the export cannot be trusted. Look for layers whose export is not exact, and report it."
        )
