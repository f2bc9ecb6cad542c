"""Cleaning removes what the declaration says and accounts for every row."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from labline.data.cleaning import clean
from labline.data.dataset import QUARANTINE_COLUMNS, Dataset
from labline.usecase import Cleaning

NO_ISSUES = pd.DataFrame(columns=["sample_id", "split", "given", "suggested", "confidence", "quality"])


@cache
def scenes() -> npt.NDArray[np.uint8]:
    """Eight unlike images; the last two are a blank one and one far too bright."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((8, 32, 32, 1)), (0, 3, 3, 0))
    images = smooth / smooth.std(axis=(1, 2), keepdims=True) * 20 + 110 + np.arange(8).reshape(8, 1, 1, 1)
    images[6] = 90
    images[7] += 110
    return images.clip(0, 255).astype(np.uint8)


def dataset_of(rows: list[tuple[int, int, str, str]]) -> Dataset:
    """Rows of scene, noise (0: the very same bytes), split and label."""
    pictures = scenes()
    images = np.stack([pictures[scene] ^ np.uint8(noise) for scene, noise, _, _ in rows])
    manifest = pd.DataFrame(
        {
            "sample_id": [f"sample-{index}" for index in range(len(rows))],
            "split": [split for _, _, split, _ in rows],
            "label": [label for _, _, _, label in rows],
            "row": np.arange(len(rows)),
            "source": "test",
            "sha256": [f"{scene}-{noise}" for scene, noise, _, _ in rows],
            "mean": images.reshape(len(rows), -1).mean(axis=1),
            "std": images.reshape(len(rows), -1).std(axis=1),
        }
    )
    return Dataset(Path(), manifest, images, ("a", "b"), Path())


def issues_of(dataset: Dataset) -> pd.DataFrame:
    """A review list that doubts every row."""
    rows = dataset.manifest[["sample_id", "split", "label"]].rename(columns={"label": "given"})
    return rows.assign(suggested=np.where(rows["given"] == "a", "b", "a"), confidence=0.9, quality=0.1)


def test_each_check_leaves_its_reason_in_the_quarantine() -> None:
    rows = [(scene, 0, "train", "a") for scene in range(8)] + [(0, 0, "test", "b"), (1, 1, "validation", "a")]
    cleaned = clean(dataset_of(rows), Cleaning(outliers="quarantine"))
    assert tuple(cleaned.quarantine.columns) == QUARANTINE_COLUMNS
    reasons = cleaned.quarantine.set_index("sample_id")["reason"]
    assert reasons["sample-6"] == "pixels vary by 0.00 grey levels only: a blank image"
    assert reasons["sample-0"] == "same content as sample-8 (test), which is labelled b and not a"
    assert reasons["sample-1"].startswith("same picture as sample-9 (validation), correlation 0.99")
    assert reasons["sample-7"].startswith("mean 22")
    assert set(cleaned.quarantine["stage"]) == {"clean"}
    assert cleaned.findings.to_dict("records") == [
        {"check": "reviewed label", "policy": "keep", "found": 0, "removed": 0},
        {"check": "blank", "policy": "drop", "found": 1, "removed": 1},
        {"check": "exact duplicate", "policy": "drop", "found": 1, "removed": 1},
        {"check": "near duplicate", "policy": "drop", "found": 1, "removed": 1},
        {"check": "label issue", "policy": "keep", "found": 0, "removed": 0},
        {"check": "outlier", "policy": "quarantine", "found": 1, "removed": 1},
    ]


def test_keep_reports_and_removes_nothing() -> None:
    dataset = dataset_of([(0, 0, "train", "a"), (0, 0, "train", "a"), (0, 1, "train", "a"), (6, 0, "train", "a")])
    cleaned = clean(dataset, Cleaning(duplicates="keep", near_duplicates="keep", blank="keep"))
    pd.testing.assert_frame_equal(cleaned.manifest, dataset.manifest)
    assert cleaned.findings.set_index("check")["found"].to_dict() == {
        "reviewed label": 0,
        "blank": 1,
        "exact duplicate": 1,
        "near duplicate": 1,
        "label issue": 0,
        "outlier": 1,
    }
    assert cleaned.quarantine.empty


def test_doubtful_labels_leave_train_and_validation_but_never_test() -> None:
    dataset = dataset_of([(0, 0, "train", "a"), (1, 0, "validation", "a"), (2, 0, "test", "a")])
    cleaned = clean(dataset, Cleaning(label_issues="quarantine"), issues_of(dataset))
    assert cleaned.manifest["split"].tolist() == ["test"]
    assert cleaned.quarantine["reason"].tolist() == ["labelled a, looks like b (90%)"] * 2


def test_reviewed_labels_are_applied() -> None:
    dataset = dataset_of([(0, 0, "train", "a"), (1, 0, "test", "a")])
    reviewed = pd.DataFrame({"sample_id": ["sample-0", "gone"], "label": ["b", "b"]})
    policy = Cleaning(label_issues="relabel", relabel_from="reviewed.csv")
    cleaned = clean(dataset, policy, issues_of(dataset), reviewed)
    assert cleaned.manifest["label"].tolist() == ["b", "a"]
    assert cleaned.findings.loc[0].to_dict() == {
        "check": "reviewed label",
        "policy": "relabel",
        "found": 1,
        "removed": 0,
    }


def test_an_empty_dataset_stays_empty() -> None:
    dataset = dataset_of([(0, 0, "train", "a")])
    empty = replace(dataset, manifest=dataset.manifest.head(0))
    assert clean(empty, Cleaning(outliers="quarantine"), NO_ISSUES).manifest.empty


samples = st.tuples(
    st.integers(0, 7), st.integers(0, 2), st.sampled_from(["train", "validation", "test"]), st.sampled_from(["a", "b"])
)
policies = st.builds(
    Cleaning,
    duplicates=st.sampled_from(["drop", "keep"]),
    near_duplicates=st.sampled_from(["drop", "keep"]),
    blank=st.sampled_from(["drop", "keep"]),
    outliers=st.sampled_from(["quarantine", "keep"]),
    label_issues=st.sampled_from(["off", "keep", "quarantine"]),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(samples, min_size=1, max_size=25), policies)
def test_every_row_is_kept_or_quarantined_and_cleaning_again_changes_nothing(
    rows: list[tuple[int, int, str, str]], policy: Cleaning
) -> None:
    dataset = dataset_of(rows)
    listed = issues_of(dataset).iloc[::3]
    cleaned = clean(dataset, policy, listed)
    both = [*cleaned.manifest["sample_id"], *cleaned.quarantine["sample_id"]]
    assert sorted(both) == sorted(dataset.manifest["sample_id"])
    kept = dataset.manifest[dataset.manifest["sample_id"].isin(cleaned.manifest["sample_id"])]
    pd.testing.assert_frame_equal(cleaned.manifest, kept.reset_index(drop=True))
    assert len(cleaned.quarantine) == cleaned.findings["removed"].sum()

    again = clean(replace(dataset, manifest=cleaned.manifest), policy, listed)
    pd.testing.assert_frame_equal(again.manifest, cleaned.manifest)
    assert again.quarantine.empty


@settings(deadline=None, max_examples=25)
@given(st.lists(samples, min_size=1, max_size=25))
def test_no_test_image_leaves_for_a_copy_elsewhere(rows: list[tuple[int, int, str, str]]) -> None:
    dataset = dataset_of(rows)
    cleaned = clean(dataset, Cleaning(blank="keep"))
    lost = cleaned.quarantine[cleaned.quarantine["split"] == "test"]
    splits = dataset.manifest.set_index("sample_id")["split"]
    assert (splits[lost["value"]] == "test").all()


@pytest.mark.parametrize("policy", ["keep", "off"])
def test_a_list_of_doubts_changes_nothing_unless_declared(policy: str) -> None:
    dataset = dataset_of([(0, 0, "train", "a"), (1, 0, "train", "b")])
    cleaned = clean(dataset, Cleaning.model_validate({"label_issues": policy}), issues_of(dataset))
    assert len(cleaned.manifest) == 2
