"""The checking flow: declaration and data are looked at, nothing is trained."""

from __future__ import annotations

from typing import Any

from tasks.environment import USECASES, load_environment, storage_root

load_environment()

from prefect import flow  # noqa: E402  (Prefect reads its settings when it is imported)

from flows.summary import stage_rows  # noqa: E402
from labline.declaration import load_usecase, own_modules  # noqa: E402
from labline.models.weights import build_declared  # noqa: E402
from labline.references import DatasetRef  # noqa: E402
from labline.series.usecase import SeriesUseCase  # noqa: E402
from labline.series.weights import build_forecaster_network  # noqa: E402
from labline.usecase import ImageUseCase, UseCase  # noqa: E402
from tasks.augment import augment  # noqa: E402
from tasks.ingest import ingest  # noqa: E402
from tasks.recording import recording  # noqa: E402
from tasks.series.clean import clean as clean_series  # noqa: E402
from tasks.series.ingest import ingest as ingest_series  # noqa: E402
from tasks.series.validate import validate as validate_series  # noqa: E402
from tasks.turn import turn  # noqa: E402
from tasks.validate import validate  # noqa: E402


@flow(name="checking", flow_run_name="checking-{usecase}", persist_result=False)
def checking(usecase: str = "surface", data: str | None = None, assignments: list[str] | None = None) -> dict[str, Any]:
    """Read the data, hold them against the expectations and try augmentation and model on them.

    Returns what `labline check --json` prints. Raises BadInput where something cannot be used.
    """
    own_modules(usecase)
    declaration = load_usecase(usecase, USECASES, assignments or (), data)
    with turn(declaration.name, storage_root()), recording(declaration) as record:
        looked_at = _series(declaration) if isinstance(declaration, SeriesUseCase) else _images(declaration)
        return {
            "usecase": declaration.name,
            "samples": looked_at.samples,
            "quarantined": looked_at.quarantined,
            "stages": stage_rows(record.stages),
        }


def _images(declaration: UseCase) -> DatasetRef:
    assert isinstance(declaration, ImageUseCase)
    validated = validate(declaration, ingest(declaration))
    augment(declaration, validated)
    build_declared(declaration, validated.classes)
    return validated


def _series(declaration: SeriesUseCase) -> DatasetRef:
    """Cleaned as well: only then are features, targets and windows known to be there."""
    cleaned = clean_series(declaration, validate_series(declaration, ingest_series(declaration)))
    build_forecaster_network(declaration)
    return cleaned
