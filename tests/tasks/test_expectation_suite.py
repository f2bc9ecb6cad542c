"""The suite on manifests with planted faults: each is found, named and, where it has rows, quarantined."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.data.dataset import QUARANTINE_COLUMNS
from labline.errors import BadInput
from tasks.expectation_suite import RESULT_COLUMNS, Validation, check_manifest, find_suite, load_suite

EXPECTATIONS = Path(__file__).parents[2] / "expectations"
IMAGES = EXPECTATIONS / "images.json"
LABELS = ("crazing", "patches", "scratches")


def make_manifest(samples: int = 240) -> pd.DataFrame:
    """A manifest without a fault: three balanced classes, two thirds of the samples to train on."""
    position = np.arange(samples)
    label = np.array(LABELS)[position % 3]
    return pd.DataFrame(
        {
            "sample_id": [f"{name}/{name}_{number}.jpg" for number, name in enumerate(label)],
            "split": np.array(["train", "train", "train", "train", "validation", "test"])[position // 3 % 6],
            "label": label,
            "row": position,
            "source": "steel.zip",
            "sha256": [f"{number:064x}" for number in position],
            "width": 200,
            "height": 200,
            "bytes": 12_000,
            "mean": 120.0 + position % 7,
            "std": 30.0 + position % 5,
        }
    )


def with_faults(column: str, value: Any, rows: list[int]) -> pd.DataFrame:
    manifest = make_manifest()
    manifest[column] = manifest[column].astype(object)
    manifest.loc[rows, column] = value
    return manifest.assign(**{column: manifest[column].infer_objects()})


@pytest.fixture
def data_docs(tmp_path: Path) -> Path:
    return tmp_path / "data-docs"


def broken(validation: Validation) -> set[tuple[str, str]]:
    """Which expectations failed as a whole: (type, column)."""
    failed = validation.results[~validation.results["success"]]
    return set(zip(failed["expectation"], failed["column"], strict=True))


def test_a_good_manifest_passes(data_docs: Path) -> None:
    validation = check_manifest(make_manifest(), IMAGES, LABELS, data_docs)

    assert validation.success
    assert list(validation.results.columns) == list(RESULT_COLUMNS)
    assert list(validation.failing.columns) == list(QUARANTINE_COLUMNS)
    assert validation.failing.empty
    assert validation.critical.empty


def test_results_stand_in_the_order_of_the_suite(data_docs: Path) -> None:
    validation = check_manifest(with_faults("label", "rust", [0]), IMAGES, LABELS, data_docs)

    written = [entry["type"] for entry in json.loads(IMAGES.read_text())["expectations"]]
    assert list(validation.results["expectation"]) == written


@pytest.mark.parametrize(
    ("column", "value", "expectation"),
    [
        ("label", "rust", "expect_column_values_to_be_in_set"),
        ("label", None, "expect_column_values_to_not_be_null"),
        ("width", 3, "expect_column_values_to_be_between"),
        ("height", 100_000, "expect_column_values_to_be_between"),
        ("bytes", 0, "expect_column_values_to_be_between"),
        ("mean", 256.0, "expect_column_values_to_be_between"),
        ("mean", np.nan, "expect_column_values_to_not_be_null"),
        ("std", 130.0, "expect_column_values_to_be_between"),
    ],
)
def test_a_few_bad_rows_go_to_quarantine_and_do_not_stop(
    column: str, value: Any, expectation: str, data_docs: Path
) -> None:
    manifest = with_faults(column, value, [4, 9])

    validation = check_manifest(manifest, IMAGES, LABELS, data_docs)

    assert validation.critical.empty
    assert list(validation.failing.index) == [4, 9]
    assert set(validation.failing["expectation"]) == {expectation}
    assert set(validation.failing["stage"]) == {"validate"}
    assert list(validation.failing["sample_id"]) == list(manifest.loc[[4, 9], "sample_id"])
    assert validation.failing["reason"].str.len().min() > 0
    assert set(validation.failing["value"]) == {str(value)} or pd.isna(value)


def test_too_many_bad_rows_stop(data_docs: Path) -> None:
    validation = check_manifest(with_faults("label", "rust", list(range(30))), IMAGES, LABELS, data_docs)

    stopping = validation.critical.iloc[0]
    assert not validation.success
    assert (stopping["expectation"], stopping["column"]) == ("expect_column_values_to_be_in_set", "label")
    assert stopping["observed"] == "rust"
    assert stopping["unexpected_count"] == 30
    assert stopping["unexpected_percent"] == pytest.approx(12.5)
    assert len(validation.failing) == 30


@pytest.mark.parametrize(
    ("column", "value", "expectation"),
    [
        ("sample_id", None, "expect_column_values_to_not_be_null"),
        ("sample_id", "twice.jpg", "expect_column_values_to_be_unique"),
        ("split", "holdout", "expect_column_values_to_be_in_set"),
        ("split", None, "expect_column_values_to_not_be_null"),
        ("row", 1, "expect_column_values_to_be_unique"),
        ("row", -1, "expect_column_values_to_be_between"),
        ("sha256", None, "expect_column_values_to_not_be_null"),
    ],
)
def test_a_broken_identity_stops_at_once(column: str, value: Any, expectation: str, data_docs: Path) -> None:
    validation = check_manifest(with_faults(column, value, [4, 9]), IMAGES, LABELS, data_docs)

    assert (expectation, column) in set(
        zip(validation.critical["expectation"], validation.critical["column"], strict=True)
    )
    assert {4, 9} <= set(validation.failing.index)


def test_a_missing_column_stops_and_is_named(data_docs: Path) -> None:
    validation = check_manifest(make_manifest().drop(columns="sha256"), IMAGES, LABELS, data_docs)

    schema = validation.critical.iloc[0]
    assert schema["expectation"] == "expect_table_columns_to_match_set"
    assert schema["observed"] == "missing: sha256"
    assert validation.critical["observed"].str.contains("could not be evaluated").any()


def test_an_empty_manifest_stops(data_docs: Path) -> None:
    validation = check_manifest(make_manifest().head(0), IMAGES, LABELS, data_docs)

    assert "expect_table_row_count_to_be_between" in set(validation.critical["expectation"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_samples_in_a_split_stops_and_is_named(split: str, data_docs: Path) -> None:
    manifest = make_manifest()
    gone = (manifest["split"] == split) & (manifest["label"] == "patches")

    validation = check_manifest(manifest[~gone], IMAGES, LABELS, data_docs)

    assert list(validation.critical["expectation"]) == ["expect_column_distinct_values_to_contain_set"]
    assert list(validation.critical["observed"]) == ["missing: patches"]


def test_a_tiny_class_stops_in_train_and_warns_in_test(data_docs: Path) -> None:
    manifest = make_manifest()
    patches = manifest["label"] == "patches"
    few = {split: manifest.index[patches & (manifest["split"] == split)][1:] for split in ("train", "test")}

    in_train = check_manifest(manifest.drop(few["train"]), IMAGES, LABELS, data_docs)
    in_test = check_manifest(manifest.drop(few["test"]), IMAGES, LABELS, data_docs)

    assert list(in_train.critical["column"]) == ["samples_of_label"]
    assert broken(in_test) == {("expect_column_min_to_be_between", "samples_of_label")}
    assert in_test.critical.empty


def test_class_imbalance_warns(data_docs: Path) -> None:
    manifest = make_manifest(900)
    few = manifest.index[(manifest["label"] == "patches") & (manifest["split"] == "train")][10:]

    validation = check_manifest(manifest.drop(few), IMAGES, LABELS, data_docs)

    assert broken(validation) == {("expect_column_max_to_be_between", "imbalance")}
    assert validation.critical.empty
    assert validation.failing.empty


def test_a_leak_between_splits_warns_and_is_left_to_cleaning(data_docs: Path) -> None:
    manifest = make_manifest()
    in_test = manifest.index[manifest["split"] == "test"][0]
    manifest.loc[in_test, "sha256"] = manifest.loc[0, "sha256"]

    validation = check_manifest(manifest, IMAGES, LABELS, data_docs)

    assert broken(validation) == {("expect_column_max_to_be_between", "splits_of_content")}
    assert validation.failing.empty


def test_dark_images_are_reported_only(data_docs: Path) -> None:
    validation = check_manifest(with_faults("mean", 1.0, list(range(60))), IMAGES, LABELS, data_docs)

    assert broken(validation) == {("expect_column_values_to_be_between", "mean")}
    assert set(validation.results.loc[~validation.results["success"], "severity"]) == {"info"}
    assert validation.failing.empty


def test_failing_rows_carry_the_index_of_the_manifest(data_docs: Path) -> None:
    manifest = with_faults("label", "rust", [4, 9])
    manifest.index = pd.Index([f"row-{number}" for number in manifest.index])

    validation = check_manifest(manifest, IMAGES, LABELS, data_docs)

    assert list(validation.failing.index) == ["row-4", "row-9"]
    assert "rust" not in set(manifest.drop(validation.failing.index)["label"])


def test_a_row_is_listed_once_for_each_expectation_it_breaks(data_docs: Path) -> None:
    manifest = make_manifest()
    manifest.loc[4, "label"] = "rust"
    manifest.loc[4, "mean"] = 300.0
    manifest.loc[4, "width"] = 1

    validation = check_manifest(manifest, IMAGES, LABELS, data_docs)

    assert list(validation.failing["value"]) == ["rust", "1", "300.0"]
    assert validation.failing.index.nunique() == 1


def test_categorical_columns_are_checked_alike(data_docs: Path) -> None:
    manifest = with_faults("label", "rust", [4]).astype({"label": "category", "split": "category"})

    validation = check_manifest(manifest, IMAGES, LABELS, data_docs)

    assert validation.critical.empty
    assert list(validation.failing["value"]) == ["rust"]


def test_the_manifest_is_left_as_it_was(data_docs: Path) -> None:
    manifest = with_faults("label", "rust", [4])
    before = manifest.copy()

    check_manifest(manifest, IMAGES, LABELS, data_docs)

    pd.testing.assert_frame_equal(manifest, before)


def test_data_docs_are_one_small_page_that_needs_no_network(data_docs: Path) -> None:
    check_manifest(with_faults("label", "rust", [4]), IMAGES, LABELS, data_docs)

    assert [path.name for path in data_docs.iterdir()] == ["index.html"]
    page = (data_docs / "index.html").read_text()
    assert "rust" in page
    assert not {"<script", "<link", "<img"} & set(re.findall(r"<\w+", page))
    assert len(page) < 300_000


@settings(max_examples=5, deadline=None)
@given(rows=st.sets(st.integers(0, 239), max_size=20), value=st.floats(256, 1e6))
def test_exactly_the_planted_rows_are_found(
    rows: set[int], value: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    manifest = with_faults("mean", value, sorted(rows))

    validation = check_manifest(manifest, IMAGES, LABELS, tmp_path_factory.mktemp("data-docs"))

    assert list(validation.failing.index) == sorted(rows)


def write_suite(path: Path, *expectations: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"name": "mine", "expectations": list(expectations)}))
    return path


def between(**kwargs: Any) -> dict[str, Any]:
    return {"type": "expect_column_values_to_be_between", "severity": "warning", "kwargs": kwargs}


def test_a_suite_of_your_own_may_look_at_columns_of_your_own(tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "mine.json", between(column="exposure", min_value=1))
    manifest = make_manifest().assign(exposure=[0, *[10] * 239])

    validation = check_manifest(manifest, suite, LABELS, tmp_path)

    assert list(validation.failing["value"]) == ["0"]
    assert list(validation.failing["reason"]) == ["expected: expect_column_values_to_be_between"]


def test_pairs_and_quantiles_work(tmp_path: Path) -> None:
    suite = write_suite(
        tmp_path / "mine.json",
        {
            "type": "expect_column_pair_values_a_to_be_greater_than_b",
            "kwargs": {"column_A": "mean", "column_B": "std"},
            "severity": "warning",
        },
        {
            "type": "expect_column_quantile_values_to_be_between",
            "kwargs": {
                "column": "mean",
                "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[100, 140]]},
            },
            "severity": "critical",
        },
    )

    validation = check_manifest(with_faults("mean", 5.0, [4]), suite, LABELS, tmp_path)

    assert list(validation.results["success"]) == [False, True]
    assert list(validation.failing["value"]) == ["5.0, 34.0"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"type": "expect_column_values_to_be_betwen", "kwargs": {}},
            "did you mean 'expect_column_values_to_be_between'",
        ),
        (between(column="mean", min_value=1) | {"severty": "info"}, "did you mean 'severity'"),
        (between(column="mean", min_value=1) | {"severity": "fatal"}, "critical, warning, info"),
        (between(column="mean", min_valu=1, max_value=3), "did you mean 'min_value'"),
        (between(column="mean"), "min_value and max_value cannot both be None"),
        (between(min_value=1), "column: field required"),
        (between(column="mean", min_value={"$PARAMETER": "lables"}), "did you mean 'labels'"),
        (between(column="maen", min_value=1), "did you mean 'mean'"),
        (
            between(column="mean", min_value=1, row_condition='split == "train"', condition_parser="panda"),
            "condition_parser",
        ),
        ({"kwargs": {}}, "'type'"),
    ],
)
def test_a_mistake_in_a_suite_is_named(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "mine.json", between(column="std", min_value=0), entry)

    with pytest.raises(BadInput, match=r"mine\.json: expectations\[1\]") as refused:
        check_manifest(make_manifest(), suite, LABELS, tmp_path)

    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"name": "mine",\n "expectations": [}', "line 2, column 19"),
        ("[]", "expected an object"),
        ('{"name": "mine"}', "'expectations' must be a list"),
        ('{"name": "mine", "expectation": []}', "did you mean 'expectations'"),
    ],
)
def test_a_broken_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    suite = tmp_path / "mine.json"
    suite.write_text(content)

    with pytest.raises(BadInput, match=r"mine\.json") as refused:
        load_suite(suite)

    assert message in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_suite(tmp_path / "mine.json", between(column="std", min_value=0))

    with pytest.raises(BadInput, match="did you mean 'mine'"):
        load_suite(tmp_path / "mien.json")


def test_find_suite_by_name_and_by_path(tmp_path: Path) -> None:
    own = write_suite(tmp_path / "own.json", between(column="std", min_value=0))

    assert find_suite("images", EXPECTATIONS) == IMAGES
    assert find_suite(str(own), EXPECTATIONS) == own
    with pytest.raises(BadInput, match="did you mean 'images'"):
        find_suite("image", EXPECTATIONS)
