"""Labelled feedback joins a data set: written once by its content, ingested beside what was there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from labline.data.dataset import open_dataset
from labline.data.feedback import write_feedback
from labline.data.ingest import fingerprint, ingest
from labline.errors import BadInput
from labline.usecase import Data

SURFACES = Data(source="surfaces", image_size=16, channels=1, options={"samples": 90})


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def written(folder: Path, label: str = "crazing", size: int = 16) -> Path:
    """Three images that were labelled, of which one was sent as a file of 64 pixels."""
    images = np.random.default_rng(0).integers(0, 256, (3, size, size), dtype=np.uint8)
    rows = pd.DataFrame({"id": ["a", "b", "c"], "label": label, "split": ["train", "validation", "test"]})
    rows = rows.assign(width=[64.0, np.nan, np.nan])
    return write_feedback(rows, dict(zip("abc", map(png, images), strict=True)), folder)


def test_the_same_feedback_is_one_file(tmp_path: Path) -> None:
    first = written(tmp_path)
    before = first.stat().st_mtime_ns
    assert written(tmp_path) == first and first.stat().st_mtime_ns == before
    assert written(tmp_path, label="scratches") != first


def test_feedback_joins_beside_what_was_there(tmp_path: Path) -> None:
    plain = ingest(SURFACES, tmp_path / "plain")
    joined = ingest(SURFACES.model_copy(update={"feedback": str(written(tmp_path))}), tmp_path / "joined")
    before, after = open_dataset(tmp_path / "plain"), open_dataset(tmp_path / "joined")
    assert (joined.samples, joined.digest != plain.digest) == (plain.samples + 3, True)
    pd.testing.assert_frame_equal(after.manifest.iloc[:90], before.manifest, check_dtype=False)
    assert np.array_equal(after.images[:90], before.images)
    added = after.manifest.iloc[90:]
    assert added["sample_id"].tolist() == ["feedback/a", "feedback/b", "feedback/c"]
    assert added["split"].tolist() == ["train", "validation", "test"], "they keep their side"
    assert added["width"].tolist() == [64, 16, 16]
    expected = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    assert np.array_equal(after.images[added["row"], ..., 0], expected)


def test_other_feedback_is_another_source(tmp_path: Path) -> None:
    named = [
        SURFACES.model_copy(update={"feedback": str(written(tmp_path, label))}) for label in ("crazing", "patches")
    ]
    assert len({fingerprint(settings) for settings in [SURFACES, *named]}) == 3


@pytest.mark.parametrize(
    ("label", "size", "message"), [("dragon", 16, "has the class 'dragon'"), ("crazing", 24, "has images of")]
)
def test_feedback_of_another_question_is_refused(tmp_path: Path, label: str, size: int, message: str) -> None:
    settings = SURFACES.model_copy(update={"feedback": str(written(tmp_path, label, size))})
    with pytest.raises(BadInput, match=message):
        ingest(settings, tmp_path / "joined")


def test_feedback_that_is_gone_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="retrain again"):
        ingest(SURFACES.model_copy(update={"feedback": str(tmp_path / "gone.npz")}), tmp_path / "joined")
