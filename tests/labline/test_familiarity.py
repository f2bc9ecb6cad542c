"""How far outside of its reference sample an input lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_models import LABELS
from small_versions import write_version

from labline.familiarity import Familiar, familiar_version, familiarity, local_version, strangeness
from labline.reference import Reference, write_reference


def reference(samples: int = 400, dimensions: int | None = 16) -> Reference:
    """Of which every sample has mean 120 ± 20 and an embedding around one direction."""
    generator = np.random.default_rng(0)
    rows = pd.DataFrame({"mean": generator.normal(120, 20, samples), "bytes": generator.integers(100, 200, samples)})
    embedding_ND = generator.normal(0, 1, (samples, dimensions or 1)).astype(np.float32)
    embedding_ND[:, 0] += 10
    kept = None if dimensions is None else embedding_ND
    return Reference(rows, np.ones((samples, 2), np.float32), kept, ("mean", "bytes"))


def seen(mean: float, direction: int = 0, **features: float) -> pd.DataFrame:
    embedding_D = np.random.default_rng(1).normal(0, 1, 16)
    embedding_D[direction] += 10
    return pd.DataFrame([{"mean": mean, "embedding": embedding_D.astype("<f2").tobytes(), **features}])


def test_what_is_usual_is_not_strange() -> None:
    found = strangeness(seen(120), familiarity(reference()))
    assert found.score[0] == 0 and found.reasons == [""]


def test_a_feature_outside_its_range_is_strange_the_farther_the_more() -> None:
    familiar = familiarity(reference())
    near, far = strangeness(seen(200), familiar), strangeness(seen(400), familiar)
    assert 0 < near.score[0] < far.score[0] < 1
    assert far.reasons[0].startswith("unlike the reference: mean 400, usually ")


def test_an_embedding_in_another_direction_is_strange() -> None:
    found = strangeness(seen(120, direction=3), familiarity(reference()))
    assert found.score[0] > 0.5 and "the embedding lies outside" in found.reasons[0]


def test_how_the_file_was_encoded_counts_for_nothing() -> None:
    assert strangeness(seen(120, bytes=1e6), familiarity(reference())).score[0] == 0


@pytest.mark.parametrize("embedding", [b"", b"\0" * 6])
def test_embeddings_that_cannot_be_compared_are_left_out(embedding: bytes) -> None:
    rows = pd.DataFrame({"mean": [120.0, np.nan], "embedding": [embedding] * 2})
    assert strangeness(rows, familiarity(reference())).score.tolist() == [0, 0]


def test_without_a_reference_nothing_is_strange() -> None:
    assert strangeness(seen(1e9), Familiar()).score.tolist() == [0]


def test_a_version_is_read_from_its_folder(tmp_path: Path) -> None:
    old, new = (write_version(tmp_path / name, contrast=0.05) for name in ("old", "new"))
    write_reference(reference(), new / "extra_files" / "reference.parquet")
    assert familiar_version(old) == Familiar(LABELS), "it was registered before there were references"
    assert familiar_version(new).labels == LABELS
    assert familiar_version(new).ranges == familiarity(reference()).ranges


def test_the_newest_local_copy_of_a_version_is_found(tmp_path: Path) -> None:
    for name in ("3-aaaa", "30-bbbb"):
        (tmp_path / "serving" / "steel" / "versions" / name).mkdir(parents=True)
        (tmp_path / "serving" / "steel" / "versions" / name / "MLmodel").touch()
    assert local_version(tmp_path, "steel", "3") == tmp_path / "serving" / "steel" / "versions" / "3-aaaa"
    assert local_version(tmp_path, "steel", "4") is None
