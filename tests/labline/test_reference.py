"""The reference sample: rows of the test split with what the released model answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.errors import LablineError
from labline.reference import COLUMNS, Reference, image_reference, open_reference, sampled, write_reference

LABELS = ("good", "scratched")


def reference(samples: int, dimensions: int | None = 8) -> Reference:
    generator = np.random.default_rng(0)
    belief_N = generator.uniform(0, 1, samples).astype(np.float32)
    rows = pd.DataFrame(
        {
            "sample_id": [f"strip/{number}.png" for number in range(samples)],
            "label": generator.choice(LABELS, samples),
            "source": "strip.zip",
            "width": 200,
            "height": 180,
            "bytes": generator.integers(1_000, 2_000, samples),
            "mean": generator.normal(120, 20, samples).astype(np.float32),
            "std": generator.normal(30, 5, samples).astype(np.float32),
        },
        index=np.arange(samples) + 700,
    )
    embedding_ND = None if dimensions is None else generator.normal(0, 3, (samples, dimensions)).astype(np.float32)
    return image_reference(rows, np.stack([belief_N, 1 - belief_N], axis=1), embedding_ND, LABELS)


@pytest.mark.parametrize("samples", [1, 60])
def test_it_is_read_as_it_was_written(samples: int, tmp_path: Path) -> None:
    written = reference(samples)
    write_reference(written, tmp_path / "reference.parquet")
    read = open_reference(tmp_path / "reference.parquet")

    pd.testing.assert_frame_equal(read.rows, written.rows)
    np.testing.assert_array_equal(read.outputs, written.outputs)
    assert read.embedding is not None and written.embedding is not None
    np.testing.assert_array_equal(read.embedding, written.embedding.astype(np.float16).astype(np.float32))
    assert read.features == ("mean", "std", "width", "height", "bytes")


def test_answers_are_class_names_with_the_largest_probability() -> None:
    found = reference(60)
    for row, outputs_K in zip(found.rows.itertuples(), found.outputs, strict=True):
        assert (row.answer, row.confidence) == (LABELS[outputs_K.argmax()], outputs_K.max())


def test_a_version_without_an_embedding_has_none(tmp_path: Path) -> None:
    write_reference(reference(5, dimensions=None), tmp_path / "reference.parquet")
    assert open_reference(tmp_path / "reference.parquet").embedding is None


def test_same_answers_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_reference(reference(60), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_values_beyond_float16_stay_finite(tmp_path: Path) -> None:
    huge = Reference(reference(2).rows, reference(2).outputs, np.array([[1e6], [-1e6]], np.float32), ("mean",))
    write_reference(huge, tmp_path / "reference.parquet")
    read = open_reference(tmp_path / "reference.parquet").embedding
    assert read is not None and read.ravel().tolist() == [65504, -65504]


@given(st.integers(1, 60), st.integers(1, 60))
def test_of_many_rows_some_are_taken_evenly_each_with_its_own_answers(samples: int, most: int) -> None:
    whole = reference(samples)
    kept = sampled(whole, most)
    assert len(kept.rows) == len(kept.outputs) == min(samples, most)
    place = {name: number for number, name in enumerate(whole.rows["sample_id"])}
    chosen = np.array([place[name] for name in kept.rows["sample_id"]])
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or (gaps.min() > 0 and gaps.max() - gaps.min() <= 1)
    np.testing.assert_array_equal(kept.outputs, whole.outputs[chosen])
    assert kept.embedding is not None and whole.embedding is not None
    np.testing.assert_array_equal(kept.embedding, whole.embedding[chosen])
    assert not set(kept.features) & set(COLUMNS)


@pytest.mark.parametrize("content", [None, b"no parquet", b""])
def test_a_file_that_is_none_is_named_with_the_next_step(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "reference.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LablineError, match=r"reference\.parquet: the reference sample.*register the model again"):
        open_reference(path)


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"close": [1.0]}).to_parquet(tmp_path / "prices.parquet")
    with pytest.raises(LablineError, match="cannot be read"):
        open_reference(tmp_path / "prices.parquet")
