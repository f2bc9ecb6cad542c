"""Ingest: from the declared source to a dataset on disk."""

from __future__ import annotations

from labline.data.ingest import fingerprint
from labline.data.ingest import ingest as decode_source
from labline.references import DatasetRef
from labline.usecase import ImageUseCase
from tasks.shards import pool_of
from tasks.stage import module_digest, stage
from tasks.workspace import Workspace


@stage(
    sections=("data",),
    depends=lambda declaration: {
        "data at the source": fingerprint(declaration.data),
        "source of data.source": module_digest(declaration.data.source),
    },
    retries=2,
)
def ingest(declaration: ImageUseCase, *, workspace: Workspace) -> DatasetRef:
    """Decode every sample once; what cannot be decoded is quarantined with the reason."""
    with pool_of(declaration.engine) as pool:
        found = decode_source(declaration.data, workspace.path, on_progress=workspace.progress, pool=pool)
    workspace.parameters({"data.samples": found.samples, "data.digest": found.digest, "classes": len(found.labels)})
    workspace.metrics({"ingest_quarantined": found.quarantined})
    return DatasetRef(
        directory=workspace.name,
        digest=found.digest,
        samples=found.samples,
        classes=len(found.labels),
        quarantined=found.quarantined,
        figure=f"{found.samples:,} images, {found.quarantined:,} quarantined",
    )
