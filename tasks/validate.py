"""Validate: Great Expectations guards the manifest."""

from __future__ import annotations

from labline.errors import BadInput
from labline.markdown import markdown_table
from labline.references import DatasetRef
from labline.usecase import ImageUseCase
from tasks.environment import EXPECTATIONS
from tasks.expectation_suite import check_manifest, find_suite
from tasks.stage import file_digest, stage
from tasks.workspace import Workspace


@stage(
    sections=("expectations",),
    depends=lambda declaration: {
        "suite": file_digest(find_suite(declaration.expectations.suite, EXPECTATIONS)),
    },
)
def validate(declaration: ImageUseCase, dataset: DatasetRef, *, workspace: Workspace) -> DatasetRef:
    """Check every row against the declared suite; failing rows are quarantined, a critical failure stops."""
    import pandas as pd

    from labline.data.dataset import open_dataset, write_dataset
    from labline.plots import class_balance

    data = open_dataset(workspace.resolve(dataset.directory))
    suite = find_suite(declaration.expectations.suite, EXPECTATIONS)
    checked = check_manifest(data.manifest, suite, data.labels, workspace.files / "data_docs")
    workspace.table("expectations", checked.results, show=40)
    workspace.table("failing_rows", checked.failing, show=20)
    workspace.figure("class_balance", class_balance(data.manifest))
    workspace.metrics({"expectations_failed": int((~checked.results["success"]).sum())})
    if len(checked.critical):
        raise BadInput(
            f"the data fail {len(checked.critical)} critical expectation(s) of {suite}:\n"
            + markdown_table(checked.critical)
            + ("\n\non these rows:\n" + markdown_table(checked.failing.head(20)) if len(checked.failing) else "")
            + "\n\nMend the data, or declare another suite (expectations.suite)."
        )
    kept = data.manifest.drop(checked.failing.index.unique())
    earlier = pd.read_parquet(data.directory / "quarantine.parquet")
    refused = checked.failing[~checked.failing.index.duplicated()].astype(str)
    quarantine = pd.concat([earlier, refused], ignore_index=True)
    digest = write_dataset(workspace.path, kept, data.labels, data.array, quarantine)
    passed = int(checked.results["success"].sum())
    return DatasetRef(
        directory=workspace.name,
        digest=digest,
        samples=len(kept),
        classes=len(data.labels),
        quarantined=len(quarantine),
        figure=f"{passed} of {len(checked.results)} expectations hold",
    )
