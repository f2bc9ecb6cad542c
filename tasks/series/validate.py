"""Validate: Great Expectations guards the rows, in their order and with what came before each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labline.errors import BadInput
from labline.markdown import markdown_table
from labline.references import DatasetRef
from labline.series.usecase import SeriesUseCase
from tasks.environment import EXPECTATIONS
from tasks.expectation_suite import Validation, check_manifest, find_suite
from tasks.stage import file_digest, stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


@stage(
    sections=("expectations", "features", "data"),
    depends=lambda declaration: {
        "suite": file_digest(find_suite(declaration.expectations.suite, EXPECTATIONS)),
    },
)
def validate(declaration: SeriesUseCase, dataset: DatasetRef, *, workspace: Workspace) -> DatasetRef:
    """Check every row against the declared suite; failing rows are quarantined, a critical failure stops."""
    import pandas as pd

    from labline.series.checks import checked_columns
    from labline.series.ingest import write_rows

    folder = workspace.resolve(dataset.directory)
    manifest = pd.read_parquet(folder / "manifest.parquet")
    suite = find_suite(declaration.expectations.suite, EXPECTATIONS)
    judged = checked_columns(manifest, declaration.features.price)
    checked = check_manifest(judged, suite, (), workspace.files / "data_docs")
    workspace.table("expectations", checked.results, show=40)
    workspace.table("failing_rows", checked.failing, show=20)
    workspace.metrics({"expectations_failed": int((~checked.results["success"]).sum())})
    if len(checked.critical):
        raise BadInput(_refusal(f"the data fail critical expectations of {suite}", checked.critical, checked))
    kept = manifest.drop(checked.failing.index.unique())
    most = declaration.data.max_rejected
    if len(manifest) - len(kept) > most * len(manifest):
        what = f"{len(manifest) - len(kept)} of {len(manifest)} rows fail expectations of {suite}"
        failed = checked.results[~checked.results["success"]]
        raise BadInput(_refusal(f"{what}, more than data.max_rejected = {most:g} allows", failed, checked))
    earlier = pd.read_parquet(folder / "quarantine.parquet")
    refused = checked.failing[~checked.failing.index.duplicated()].fillna("").astype(str)
    quarantine = pd.concat([earlier, refused], ignore_index=True)
    digest = write_rows(kept, quarantine, workspace.path)
    passed = int(checked.results["success"].sum())
    return DatasetRef(
        directory=workspace.name,
        digest=digest,
        samples=len(kept),
        classes=0,
        quarantined=len(quarantine),
        figure=f"{passed} of {len(checked.results)} expectations hold",
    )


def _refusal(what: str, failed: pd.DataFrame, checked: Validation) -> str:
    rows = "\n\non these rows:\n" + markdown_table(checked.failing.head(20)) if len(checked.failing) else ""
    advice = "Mend the data, or declare another suite (expectations.suite)."
    return f"{what}:\n{markdown_table(failed)}{rows}\n\n{advice}"
