"""Annotations merge by majority; a bad row is named with its number, its value and what was meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labline.data.annotations import agreement, merge_annotations, read_review, relabel
from labline.errors import BadInput

LABELS = ("crazing", "patches", "scratches")
MANIFEST = pd.DataFrame({"sample_id": ["img-1", "img-2", "img-3", "img-4"], "label": ["crazing"] * 4})


def written(folder: Path, text: str) -> Path:
    path = folder / "annotations.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_majority_decides_and_a_tie_keeps_the_label(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "sample_id,label,annotator\n"
        "img-1,patches,ada\nimg-1,patches,bob\nimg-1,crazing,cem\n"
        "img-2,patches,ada\nimg-2,scratches,bob\n"
        "img-3,crazing,ada\n",
    )
    merged = merge_annotations(MANIFEST, path, LABELS)
    assert merged.manifest["label"].tolist() == ["patches", "crazing", "crazing", "crazing"]
    assert merged.conflicts.to_dict("records") == [
        {
            "sample_id": "img-1",
            "given": "crazing",
            "votes": "patches 2, crazing 1",
            "label": "patches",
            "resolution": "majority",
        },
        {
            "sample_id": "img-2",
            "given": "crazing",
            "votes": "patches 1, scratches 1",
            "label": "crazing",
            "resolution": "tie, label kept",
        },
    ]
    assert (merged.agreement.annotators, merged.agreement.samples) == (3, 2)


def test_an_annotator_may_change_their_mind(tmp_path: Path) -> None:
    path = written(tmp_path, "sample_id,label,annotator\nimg-1,patches,ada\nimg-1,scratches,ada\n")
    merged = merge_annotations(MANIFEST, path, LABELS)
    assert merged.manifest["label"].iloc[0] == "scratches"
    assert np.isnan(merged.agreement.value)


def test_krippendorffs_own_example() -> None:
    # Krippendorff 2011, section C: four observers, twelve units, nominal alpha 0.743.
    ratings = {"A": "123321412   ", "B": "1233224125 3", "C": " 3332342251 ", "D": "12332441251 "}
    rows = [
        (unit, annotator, value)
        for annotator, values in ratings.items()
        for unit, value in enumerate(values)
        if value != " "
    ]
    found = agreement(pd.DataFrame(rows, columns=["sample_id", "annotator", "label"]))
    assert found.measure == "Krippendorff's alpha"
    assert found.value == pytest.approx(0.743, abs=5e-4)


def test_two_annotators_are_compared_by_cohens_kappa() -> None:
    # Cohen 1960's form: 45 both yes, 15 and 25 split, 15 both no: observed 0.6, expected 0.54, kappa 0.1304.
    votes = [("y", "y")] * 45 + [("y", "n")] * 15 + [("n", "y")] * 25 + [("n", "n")] * 15
    rows = [(unit, name, vote) for unit, pair in enumerate(votes) for name, vote in zip("ab", pair, strict=True)]
    found = agreement(pd.DataFrame(rows, columns=["sample_id", "annotator", "label"]))
    assert found.measure == "Cohen's kappa" and found.value == pytest.approx(0.1304, abs=5e-5)


def test_a_reviewed_list_with_other_columns_corrects_labels(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeffquality, sample_id ,label\n0.01, img-2 ,scratches\n\n0.02,img-4,patches\n")
    review = read_review(path, MANIFEST["sample_id"], LABELS)
    assert relabel(MANIFEST, review)["label"].tolist() == ["crazing", "scratches", "crazing", "patches"]


def test_rows_of_quarantined_samples_are_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path, "sample_id,label\nimg-1,patches\ngone,patches\n")
    assert read_review(path, MANIFEST["sample_id"], LABELS, absent={"gone"})["sample_id"].tolist() == ["img-1"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sample_id,label\nimg-1,patches\n\nimg-2,scraches\n", "row 4: unknown class 'scraches'.*mean 'scratches'"),
        ("sample_id,label\nimg-11,patches\nimg-12,patches\n", "row 2: unknown sample_id 'img-11'.*'img-1'.*1 more"),
        ("sample_id,label\nzzzzzz,patches\n", "row 2: unknown sample_id 'zzzzzz': sample_ids look like 'img-1'"),
        ("sample_id,label\nimg-1,\n", "row 2: 'label' is empty"),
        ("sample_id,class\nimg-1,patches\n", "'label' is missing; expected sample_id, label"),
        ("sample_id,label\nimg-1,patches\nimg-1,crazing\n", "more than one label.*row 2: 'patches', row 3: 'crazing'"),
        ("sample_id,label\nimg-1,patches\nimg-2,patches,crazing,x\n", "not a valid CSV.*line 3"),
        ("sample_id,label\n", "no rows"),
        ("", "the file is empty"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadInput, match=f"annotations.csv.*{complaint}"):
        read_review(path, MANIFEST["sample_id"], LABELS)


def test_another_encoding_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("sample_id,label\nimg-1,patches\nimg-2,Riß\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"row 3: byte 0xdf is not UTF-8"):
        read_review(path, MANIFEST["sample_id"], LABELS)


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_review(tmp_path / name, MANIFEST["sample_id"], LABELS)


votes = st.lists(
    st.tuples(st.sampled_from(list(MANIFEST["sample_id"])), st.sampled_from(LABELS), st.sampled_from("abc")),
    min_size=1,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(votes)
def test_merging_changes_labels_only_and_reports_each_change(tmp_path: Path, votes: list[tuple[str, str, str]]) -> None:
    rows = pd.DataFrame(votes, columns=["sample_id", "label", "annotator"])
    path = tmp_path / "votes.csv"
    rows.to_csv(path, index=False)
    merged = merge_annotations(MANIFEST, path, LABELS)
    assert merged.manifest["sample_id"].equals(MANIFEST["sample_id"])
    changed = MANIFEST["sample_id"][merged.manifest["label"] != MANIFEST["label"]]
    assert set(changed) <= set(merged.conflicts["sample_id"])
    assert np.isnan(merged.agreement.value) or -1 <= merged.agreement.value <= 1
