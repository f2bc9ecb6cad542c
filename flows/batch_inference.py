"""The batch-inference flow: a version answers everything in a folder, archive, table or array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.environment import load_environment

load_environment()

from prefect import flow  # noqa: E402  (Prefect reads its settings when it is imported)
from prefect.artifacts import create_markdown_artifact  # noqa: E402
from pydantic import PositiveInt  # noqa: E402

from labline.engine import engine_of  # noqa: E402
from tasks.predict import check_paths, predict, told  # noqa: E402
from tasks.staged import staged_version  # noqa: E402
from tasks.version import fetch_version  # noqa: E402


@flow(name="batch-inference", flow_run_name="batch-inference-{usecase}", persist_result=False)
def batch_inference(
    usecase: str,
    source: str,
    out: str,
    stage: str = "production",
    version: str | None = None,
    batch_size: PositiveInt = 64,
    workers: PositiveInt | None = None,
    fresh: bool = False,
    engine: str | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Write the answers to all samples in `source` to the file `out`; see `tasks.predict.predict`.

    Asked is the version in `stage`, production or staging, or `version`, whatever its stage. `engine`, local or ray,
    and the `address` of a Ray cluster override `[engine]` of the version's declaration.
    Returns the summary that `labline predict --json` prints. Raises BadInput or LablineError.
    """
    check_paths(Path(source), Path(out))
    fetched = fetch_version(*staged_version(usecase, stage, version))
    who = engine_of(fetched.declaration.engine, engine, address)
    predicted = predict(fetched, Path(source), Path(out), batch_size, workers, fresh, who)
    markdown = f"`{out}`: version {fetched.number}, {told(predicted)}, in {predicted.seconds:.1f} s\n\nfrom `{source}`"
    create_markdown_artifact(key=f"{usecase}-predictions", markdown=markdown, description=told(predicted))
    return {
        "usecase": usecase,
        "version": fetched.number,
        "out": out,
        "samples": predicted.samples,
        "answered": predicted.answered,
        "quarantined": predicted.refused,
        "quarantine": str(predicted.quarantine) if predicted.quarantine else None,
        "resumed": predicted.resumed,
        "seconds": predicted.seconds,
    }
