"""Copies of deleted predictions: every training set that holds one is found, and goes; the others stay."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from labline.data.dataset import MANIFEST_COLUMNS, write_dataset
from labline.data.feedback import join_feedback, write_feedback
from tasks.training_copies import copies_of, delete_copies

SIZE = 8


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage root of the test's own."""
    monkeypatch.setenv("LABLINE_STORE", str(tmp_path))
    return tmp_path


def joined(store: Path, ids: Sequence[str]) -> Path:
    """Feedback as a retraining leaves it."""
    file = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE), len(ids), np.uint8)).save(file, "PNG")
    rows = pd.DataFrame({"id": ids, "label": "dent", "split": "train"})
    return write_feedback(rows, dict.fromkeys(ids, file.getvalue()), store / "retraining" / "steel" / "feedback")


def ingested(store: Path, key: str, feedback: Path | None) -> Path:
    """The data set that was made of it, or of files alone."""
    folder = store / "stages" / "ingest" / key
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.zeros((1, SIZE, SIZE, 1), np.uint8))
    manifest = pd.DataFrame([dict.fromkeys(MANIFEST_COLUMNS, 0) | {"sample_id": "a.png", "label": "dent"}])
    if feedback is not None:
        manifest = join_feedback(manifest, folder / "images.npy", feedback, ["dent"])
    write_dataset(
        folder, manifest.astype({"split": str, "source": str, "sha256": str}), ("dent",), folder / "images.npy"
    )
    return folder


def cleaned(store: Path, key: str, of: Path) -> Path:
    """A data set of the same images, in which the rows of feedback were duplicates and were left out."""
    folder = store / "stages" / "clean" / key
    folder.mkdir(parents=True)
    write_dataset(folder, pd.DataFrame({"sample_id": ["a.png"], "split": "", "label": "dent", "sha256": ""}), ("dent",),
                  of / "images.npy")  # fmt: skip
    return folder


def test_every_training_set_that_holds_a_prediction_is_found_and_goes(store: Path) -> None:
    ours, theirs = joined(store, ["p1", "p2"]), joined(store, ["p3"])
    holding, other = ingested(store, "one", ours), ingested(store, "two", theirs)
    pointing, plain = cleaned(store, "three", holding), ingested(store, "four", None)
    found = copies_of(["p2", "never-joined"])
    assert found == sorted([ours.parent, holding, pointing])
    delete_copies(found)
    assert copies_of(["p1", "p2"]) == []
    assert all(folder.is_dir() for folder in (theirs.parent, other, plain))


def test_what_never_joined_a_training_has_no_copies(store: Path) -> None:
    assert copies_of(["p1"]) == []
    joined(store, ["p1"])
    assert copies_of(["p"]) == []
