"""Clean: annotations merged, duplicates, blanks and outliers removed, suspicious labels listed for review."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from labline.declaration import expand
from labline.references import DatasetRef
from labline.usecase import ImageUseCase
from tasks.stage import file_digest, stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from labline.data.dataset import Dataset


def declared_files(declaration: ImageUseCase) -> dict[str, str]:
    """Digests of the label files that the declaration names."""
    named = {"annotations": declaration.data.annotations, "reviewed labels": declaration.cleaning.relabel_from}
    return {name: file_digest(expand(path, name)) for name, path in named.items() if path}


@stage(sections=("cleaning",), depends=declared_files)
def clean(declaration: ImageUseCase, dataset: DatasetRef, *, workspace: Workspace) -> DatasetRef:
    """Apply the declared policies; every removed row is in quarantine with its reason."""
    import pandas as pd

    from labline.data.annotations import read_review
    from labline.data.cleaning import clean as apply_policies
    from labline.data.dataset import open_dataset, write_dataset

    data = open_dataset(workspace.resolve(dataset.directory))
    earlier = pd.read_parquet(data.directory / "quarantine.parquet")
    if declaration.data.annotations:
        data = _annotated(data, expand(declaration.data.annotations, "data.annotations"), earlier, workspace)
    review = None
    if declaration.cleaning.relabel_from:
        path = expand(declaration.cleaning.relabel_from, "cleaning.relabel_from")
        review = read_review(path, data.manifest["sample_id"], data.labels, absent=set(earlier["sample_id"]))
    issues = None if declaration.cleaning.label_issues == "off" else _label_issues(declaration, data, workspace)
    cleaned = apply_policies(data, declaration.cleaning, issues, review)
    workspace.table("findings", cleaned.findings, show=10)
    workspace.table("removed", cleaned.quarantine, show=10)
    quarantine = pd.concat([earlier, cleaned.quarantine.astype(str)], ignore_index=True)
    workspace.table("quarantine", quarantine)
    workspace.metrics({"quarantined": len(quarantine)})
    digest = write_dataset(workspace.path, cleaned.manifest, data.labels, data.array, quarantine)
    found = ", ".join(
        f"{n} {check}s" for check, n in zip(cleaned.findings["check"], cleaned.findings["found"], strict=True) if n
    )
    return DatasetRef(
        directory=workspace.name,
        digest=digest,
        samples=len(cleaned.manifest),
        classes=len(data.labels),
        quarantined=len(quarantine),
        figure=f"{len(cleaned.manifest):,} images kept; {found or 'nothing found'}",
    )


def _annotated(data: Dataset, path: Path, quarantined: pd.DataFrame, workspace: Workspace) -> Dataset:
    from labline.data.annotations import merge_annotations

    merged = merge_annotations(data.manifest, path, data.labels, absent=set(quarantined["sample_id"]))
    agreement = merged.agreement
    workspace.table("annotation_conflicts", merged.conflicts, show=20)
    workspace.say(
        f"{agreement.measure} of {agreement.annotators} annotators on {agreement.samples} samples "
        f"labelled by two or more: {agreement.value:.3f}"
    )
    workspace.metrics({"annotation_agreement": agreement.value, "annotation_conflicts": len(merged.conflicts)})
    return replace(data, manifest=merged.manifest)


def _label_issues(declaration: ImageUseCase, data: Dataset, workspace: Workspace) -> pd.DataFrame:
    """The review list, from a screening classifier cross-validated on everything but the test split."""
    from labline.data.label_issues import cross_validated_probabilities, find_label_issues
    from labline.screening import screening_classifier

    seen = (data.manifest["split"] != "test").to_numpy()
    rows = data.manifest[seen]
    targets = data.targets[seen]
    classes, folds = len(data.labels), declaration.cleaning.folds
    fit_predict = screening_classifier(
        declaration, classes, on_fold=lambda fold: workspace.progress(fold, folds, f"screening labels, fold {fold}")
    )
    seed = declaration.training.seed
    images = data.images[rows["row"].to_numpy()]
    beliefs = cross_validated_probabilities(images, targets, classes, folds, seed, fit_predict)
    issues = find_label_issues(beliefs, targets, data.labels, rows)
    workspace.table("label_review", issues, show=15)
    return issues
