"""Cleaning: what duplicates, blank images, outliers and suspicious labels a dataset has, and what becomes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from labline.data.annotations import relabel as correct_labels
from labline.data.dataset import QUARANTINE_COLUMNS, Dataset
from labline.data.duplicates import exact_duplicates, near_duplicates
from labline.data.outliers import blank_images, outliers
from labline.usecase import Cleaning

log = logging.getLogger(__name__)

FINDING_COLUMNS = ("check", "policy", "found", "removed")


@dataclass(frozen=True)
class Cleaned:
    """The outcome: every row handed in is either in `manifest` or, with its reason, in `quarantine`.

    `quarantine` has QUARANTINE_COLUMNS with stage "clean"; `findings` has one row a check: `check`,
    `policy`, `found` (rows) and `removed` (rows).
    """

    manifest: pd.DataFrame
    quarantine: pd.DataFrame
    findings: pd.DataFrame


def clean(
    dataset: Dataset,
    settings: Cleaning,
    label_issues: pd.DataFrame | None = None,
    relabel: pd.DataFrame | None = None,
) -> Cleaned:
    """Apply the declared policy of each check; each sees what the checks before it left.

    `label_issues` is the list of `labline.data.label_issues.find_label_issues`; its test rows, if any, are
    left alone. `relabel` (`sample_id`, `label`: the reviewed list) is applied first where the policy is
    "relabel". Samples that a list names and the manifest lacks are passed over. Of several copies the one
    in test stays, then the one in validation, then the first. Cleaning again changes nothing.
    """
    manifest = dataset.manifest
    if settings.label_issues == "relabel" and relabel is not None:
        manifest = correct_labels(manifest, relabel)
    corrected = int((manifest["label"] != dataset.manifest["label"]).sum())
    findings: list[tuple[str, str, int, int]] = [("reviewed label", settings.label_issues, corrected, 0)]
    quarantined: list[pd.DataFrame] = []
    # Outliers come last: they are judged against the rows that stay, so nothing may leave after them.
    checks: tuple[tuple[str, str, Callable[[Dataset], pd.DataFrame]], ...] = (
        ("blank", settings.blank, _blank),
        ("exact duplicate", settings.duplicates, _exact_duplicates),
        ("near duplicate", settings.near_duplicates, _near_duplicates),
        ("label issue", settings.label_issues, partial(_label_issues, listed=label_issues)),
        ("outlier", settings.outliers, _outliers),
    )
    for name, policy, examine in checks:
        suspects = examine(replace(dataset, manifest=manifest))
        removed = suspects if policy in ("drop", "quarantine") else suspects.head(0)
        findings.append((name, policy, len(suspects), len(removed)))
        quarantined.append(_quarantine(manifest, name, removed))
        manifest = manifest[~manifest["sample_id"].isin(removed["sample_id"])]
        log.info("%s: %d found, %d removed", name, len(suspects), len(removed))
    return Cleaned(
        manifest=manifest.reset_index(drop=True),
        quarantine=pd.concat(quarantined, ignore_index=True),
        findings=pd.DataFrame(findings, columns=list(FINDING_COLUMNS)),
    )


# Each check returns its suspects: sample_id, value and reason.


def _blank(dataset: Dataset) -> pd.DataFrame:
    found = blank_images(dataset)
    reasons = [f"pixels vary by {std:.2f} grey levels only: a blank image" for std in found["std"]]
    return _suspects(found["sample_id"], found["std"].map("{:.3f}".format), reasons)


def _exact_duplicates(dataset: Dataset) -> pd.DataFrame:
    found = exact_duplicates(dataset.manifest)
    reasons = [f"same content as {copy}" for copy in _described_copies(dataset.manifest, found)]
    return _suspects(found["sample_id"], found["duplicate_of"], reasons)


def _near_duplicates(dataset: Dataset) -> pd.DataFrame:
    found = near_duplicates(dataset)
    copies = _described_copies(dataset.manifest, found)
    reasons = [
        f"same picture as {copy}, correlation {correlation:.3f}"
        for copy, correlation in zip(copies, found["correlation"], strict=True)
    ]
    return _suspects(found["sample_id"], found["duplicate_of"], reasons)


def _label_issues(dataset: Dataset, listed: pd.DataFrame | None) -> pd.DataFrame:
    if listed is None:
        return _suspects([], [], [])
    open_to_doubt = dataset.manifest.loc[dataset.manifest["split"] != "test", ["sample_id", "label"]]
    # A label that was corrected since the list was made is no longer the one in doubt.
    found = listed.merge(open_to_doubt, left_on=["sample_id", "given"], right_on=["sample_id", "label"])
    reasons = [
        f"labelled {given}, looks like {suggested} ({confidence:.0%})"
        for given, suggested, confidence in zip(found["given"], found["suggested"], found["confidence"], strict=True)
    ]
    return _suspects(found["sample_id"], found["suggested"], reasons)


def _outliers(dataset: Dataset) -> pd.DataFrame:
    found = outliers(dataset.manifest)
    reasons = [
        f"{statistic} {value:.1f} lies {abs(score):.1f} robust deviations from the training split's median"
        for statistic, value, score in zip(found["statistic"], found["value"], found["score"], strict=True)
    ]
    return _suspects(found["sample_id"], found["value"].map("{:.3f}".format), reasons)


def _suspects(sample_ids: Iterable[str], values: Iterable[str], reasons: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": list(sample_ids), "value": list(values), "reason": reasons}, dtype=object)


def _described_copies(manifest: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """The copy that stays, with its split, and its label where the two contradict each other."""
    rows = manifest.set_index("sample_id")
    own, kept = rows.reindex(found["sample_id"])["label"], rows.reindex(found["duplicate_of"])
    return [
        f"{copy} ({split})" + (f", which is labelled {label} and not {own_label}" if label != own_label else "")
        for copy, split, label, own_label in zip(kept.index, kept["split"], kept["label"], own, strict=True)
    ]


def _quarantine(manifest: pd.DataFrame, check: str, removed: pd.DataFrame) -> pd.DataFrame:
    rows = manifest[["sample_id", "split", "label", "source"]].merge(removed, on="sample_id")
    return rows.assign(stage="clean", expectation=check)[list(QUARANTINE_COLUMNS)]
