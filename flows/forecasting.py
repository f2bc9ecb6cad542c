"""The forecasting flow: from a raw series to a registered version."""

from __future__ import annotations

from typing import Any

from tasks.environment import USECASES, load_environment, storage_root

load_environment()

from prefect import flow  # noqa: E402  (Prefect reads its settings when it is imported)

from flows.summary import summarize  # noqa: E402
from labline.declaration import load_series_usecase, own_modules  # noqa: E402
from tasks.gate import gate  # noqa: E402
from tasks.recording import recording  # noqa: E402
from tasks.series.clean import clean  # noqa: E402
from tasks.series.compress import compress  # noqa: E402
from tasks.series.evaluate import evaluate  # noqa: E402
from tasks.series.export import export  # noqa: E402
from tasks.series.ingest import ingest  # noqa: E402
from tasks.series.register import register  # noqa: E402
from tasks.series.train import train  # noqa: E402
from tasks.series.validate import validate  # noqa: E402
from tasks.tflite import require_formats  # noqa: E402
from tasks.turn import turn  # noqa: E402


@flow(name="forecasting", flow_run_name="forecasting-{usecase}", persist_result=False)
def forecasting(
    usecase: str = "volatility",
    data: str | None = None,
    assignments: list[str] | None = None,
    fresh: bool = False,
    reason: str = "",
) -> dict[str, Any]:
    """Carry a declared application from a raw series to a registered version; see `flows.training.training`.

    Returns the summary that `labline run --json` prints. Raises BadInput, LablineError or RefusedByGate.
    """
    own_modules(usecase)
    declaration = load_series_usecase(usecase, USECASES, assignments or (), data)
    require_formats(declaration.export)
    with turn(declaration.name, storage_root()), recording(declaration, fresh, reason) as record:
        ingested = ingest(declaration)
        validated = validate(declaration, ingested)
        cleaned = clean(declaration, validated)
        trained = train(declaration, cleaned)
        compressed = compress(declaration, cleaned, trained)
        exported = export(declaration, cleaned, trained, compressed)
        evaluated = evaluate(declaration, cleaned, exported)
        gate(declaration, compressed, evaluated)
        version = register(declaration, cleaned, trained, compressed, exported, evaluated)
        return summarize(cleaned, trained, compressed, exported, evaluated, version, record.stages)
