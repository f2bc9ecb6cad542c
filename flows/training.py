"""The training flow: from raw data to a registered version."""

from __future__ import annotations

from typing import Any

from tasks.environment import USECASES, load_environment, storage_root

load_environment()

from prefect import flow  # noqa: E402  (Prefect reads its settings when it is imported)

from flows.summary import summarize  # noqa: E402
from labline.declaration import load_image_usecase, own_modules  # noqa: E402
from tasks.augment import augment  # noqa: E402
from tasks.clean import clean  # noqa: E402
from tasks.compress import compress  # noqa: E402
from tasks.evaluate import evaluate  # noqa: E402
from tasks.export import export  # noqa: E402
from tasks.gate import gate  # noqa: E402
from tasks.ingest import ingest  # noqa: E402
from tasks.recording import recording  # noqa: E402
from tasks.register import register  # noqa: E402
from tasks.tflite import require_formats  # noqa: E402
from tasks.train import train  # noqa: E402
from tasks.turn import turn  # noqa: E402
from tasks.validate import validate  # noqa: E402


@flow(name="training", flow_run_name="training-{usecase}", persist_result=False)
def training(
    usecase: str = "surface",
    data: str | None = None,
    assignments: list[str] | None = None,
    fresh: bool = False,
    reason: str = "",
) -> dict[str, Any]:
    """Carry a declared application from raw data to a registered version.

    `usecase` is a shipped name or the path of a declaration; `data` overrides `data.path`; `assignments` are
    `section.key=value` overrides; `fresh` runs every stage again; `reason` says why, and stays with the version.
    Returns the summary that `labline run --json` prints. Raises BadInput, LablineError or RefusedByGate.
    """
    own_modules(usecase)
    declaration = load_image_usecase(usecase, USECASES, assignments or (), data)
    require_formats(declaration.export)
    with turn(declaration.name, storage_root()), recording(declaration, fresh, reason) as record:
        ingested = ingest(declaration)
        validated = validate(declaration, ingested)
        cleaned = clean(declaration, validated)
        augmented = augment(declaration, cleaned)
        trained = train(declaration, cleaned, augmented)
        compressed = compress(declaration, cleaned, trained)
        exported = export(declaration, cleaned, trained, compressed)
        evaluated = evaluate(declaration, cleaned, exported)
        gate(declaration, compressed, evaluated)
        version = register(declaration, cleaned, trained, compressed, exported, evaluated)
        return summarize(cleaned, trained, compressed, exported, evaluated, version, record.stages)
