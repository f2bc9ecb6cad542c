"""Gathering what a challenger learns from: once for an attempt, out of what the store holds."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import save_file
from saved_feedback import label, prediction

from labline.declaration import as_toml, load_image_usecase, load_usecase
from labline.errors import BadInput
from labline.feedback import FeedbackStore
from labline.retraining import Attempt
from tasks.environment import USECASES
from tasks.gathering import Gathered, gather
from tasks.version import Version

ATTEMPT = Attempt("first", "surface", "1", "lamps", 2000.0, 0.0, 2000.0)
SMALL = ["retraining.fewest=10", "data.image_size=16"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeedbackStore:
    """An empty feedback store, in a storage root of the test's own."""
    monkeypatch.setenv("LABLINE_STORE", str(tmp_path))
    monkeypatch.setenv("LABLINE_FEEDBACK", f"sqlite:///{tmp_path}/feedback.db")
    return FeedbackStore(f"sqlite:///{tmp_path}/feedback.db")


def champion(folder: Path, *settings: str, usecase: str = "surface") -> Version:
    """As much of a version as gathering reads; it has learned from no feedback yet."""
    extra = folder / "version" / "extra_files"
    extra.mkdir(parents=True)
    (extra / "usecase.toml").write_text(as_toml(load_usecase(usecase, USECASES, settings)))
    (extra / "evaluation.json").write_text(json.dumps({"labels": ["crazing", "patches"]}))
    pd.DataFrame({"sample_id": ["strip-1"], "split": ["test"]}).to_parquet(extra / "manifest.parquet")
    save_file({"weight": np.zeros(1, np.float32)}, extra / "model.safetensors")
    return Version(usecase, "1", "", {}, folder / "version")


def answered(store: FeedbackStore, count: int) -> list[str]:
    """Labelled predictions with their inputs."""
    random = np.random.default_rng(0)
    asked = [prediction("surface", at=1000.0 + i, input=png(random)) for i in range(count)]
    store.write([*asked, *(label(each, "crazing") for each in asked)])
    return [each.id for each in asked]


def png(random: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (16, 16), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def declared(folder: Path, gathered: Gathered | None) -> tuple[Path, dict[str, object]]:
    """The feedback file of the challenger's declaration, and what else it says."""
    assert gathered is not None
    declaration = load_image_usecase(str(folder / gathered.declaration), USECASES)
    assert declaration.data.feedback is not None
    return Path(declaration.data.feedback.replace("${LABLINE_STORE}", str(folder))), declaration.model_dump()


def test_a_challenger_is_declared_like_its_champion_with_feedback(store: FeedbackStore, tmp_path: Path) -> None:
    answered(store, 40)
    gathered = gather(champion(tmp_path, *SMALL), ATTEMPT)
    feedback, declaration = declared(tmp_path, gathered)
    assert gathered is not None and gathered.counts["fresh"] == 40
    with np.load(feedback) as arrays:
        assert arrays["images"].shape == (40, 16, 16, 1)
        assert set(arrays["splits"]) == {"train", "validation", "test"}
    before = load_image_usecase("surface", USECASES, SMALL).model_dump()
    assert declaration["training"] == before["training"] and declaration["model"] == before["model"]


def test_an_attempt_keeps_to_what_it_gathered(store: FeedbackStore, tmp_path: Path) -> None:
    version = champion(tmp_path, *SMALL)
    answered(store, 20)
    first = gather(version, ATTEMPT)
    answered(store, 20)
    assert gather(version, ATTEMPT) == first, "labels that came meanwhile are for the next attempt"
    assert gather(version, replace(ATTEMPT, id="second")) != first


def test_what_was_deleted_is_not_learned(store: FeedbackStore, tmp_path: Path) -> None:
    ids = answered(store, 30)
    store.delete(ids[:10])
    feedback, _ = declared(tmp_path, gather(champion(tmp_path, *SMALL), ATTEMPT))
    with np.load(feedback) as arrays:
        assert sorted(arrays["ids"]) == sorted(ids[10:])


def test_too_few_new_labels_are_nothing_to_learn(store: FeedbackStore, tmp_path: Path) -> None:
    answered(store, 9)
    assert gather(champion(tmp_path, *SMALL), ATTEMPT) is None


def test_a_warm_start_goes_on_from_the_champion_as_declared(store: FeedbackStore, tmp_path: Path) -> None:
    answered(store, 20)
    rules = ['retraining.start="warm"', "retraining.epochs=2", "retraining.learning_rate=1e-4"]
    _, declaration = declared(tmp_path, gather(champion(tmp_path, *SMALL, *rules), ATTEMPT))
    model, training = declaration["model"], declaration["training"]
    assert isinstance(model, dict) and isinstance(training, dict)
    start = Path(model["start_from"].replace("${LABLINE_STORE}", str(tmp_path)))
    assert start.read_bytes() == (tmp_path / "version" / "extra_files" / "model.safetensors").read_bytes()
    assert (training["epochs"], training["learning_rate"]) == (2, 1e-4)


def test_a_series_is_trained_on_its_source(store: FeedbackStore, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="bring its source up to date"):
        gather(champion(tmp_path, usecase="volatility"), replace(ATTEMPT, usecase="volatility"))
