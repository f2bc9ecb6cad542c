"""Clean: duplicates, outliers and gaps by the declared policies; then features, targets and windows."""

from __future__ import annotations

from labline.references import DatasetRef
from labline.series.usecase import SeriesUseCase
from tasks.stage import stage
from tasks.workspace import Workspace


@stage(sections=("cleaning", "features"))
def clean(declaration: SeriesUseCase, dataset: DatasetRef, *, workspace: Workspace) -> DatasetRef:
    """Apply the declared policies and write the data set; every removed row is in quarantine with its reason."""
    import pandas as pd

    from labline.data.dataset import SPLITS
    from labline.series.cleaning import clean_series
    from labline.series.dataset import open_series, windows, write_series

    folder, features = workspace.resolve(dataset.directory), declaration.features
    manifest = pd.read_parquet(folder / "manifest.parquet")
    earlier = pd.read_parquet(folder / "quarantine.parquet")
    cleaned = clean_series(manifest, declaration.cleaning, features.columns, features.positive_columns)
    digest = write_series(cleaned, features, workspace.path, earlier)
    quarantine = pd.read_parquet(workspace.path / "quarantine.parquet")
    workspace.table("findings", cleaned.findings, show=10)
    workspace.table("removed", cleaned.quarantine, show=10)
    workspace.table("quarantine", quarantine)
    written = open_series(workspace.path)
    counts = {split: len(windows(written, split)) for split in SPLITS}
    workspace.metrics({"quarantined": len(quarantine), **{f"{split}_windows": n for split, n in counts.items()}})
    found = ", ".join(
        f"{n} {check}{'s' * (n > 1)}"
        for check, n in zip(cleaned.findings["check"], cleaned.findings["found"], strict=True)
        if n
    )
    return DatasetRef(
        directory=workspace.name,
        digest=digest,
        samples=len(cleaned.manifest),
        classes=2 if features.target == "direction" else 0,
        quarantined=len(quarantine),
        figure=f"{' + '.join(f'{n:,}' for n in counts.values())} windows; {found or 'nothing found'}",
    )
