"""Ingest: from the declared source to rows with splits."""

from __future__ import annotations

from labline.references import DatasetRef
from labline.series.ingest import fingerprint, ingest_series, write_ingested
from labline.series.usecase import SeriesUseCase
from tasks.stage import module_digest, stage
from tasks.workspace import Workspace


@stage(
    sections=("data", "features"),
    depends=lambda declaration: {
        "data at the source": fingerprint(declaration.data),
        "source of data.source": module_digest(declaration.data.source),
    },
    retries=2,
)
def ingest(declaration: SeriesUseCase, *, workspace: Workspace) -> DatasetRef:
    """Read every row once and assign splits; what cannot be used is quarantined with the reason."""
    found = ingest_series(declaration.data, declaration.features)
    digest = write_ingested(found, workspace.path)
    rows, refused = len(found.manifest), len(found.quarantine)
    workspace.table("quarantine", found.quarantine, show=20)
    workspace.parameters({"data.samples": rows, "data.digest": digest})
    workspace.metrics({"ingest_quarantined": refused, "rows_out_of_order": found.disordered})
    entities = found.manifest["entity"].nunique()
    several = f" of {entities:,} entities" if entities > 1 else ""
    return DatasetRef(
        directory=workspace.name,
        digest=digest,
        samples=rows,
        classes=0,
        quarantined=refused,
        figure=f"{rows:,} rows{several}, {refused:,} quarantined",
    )
