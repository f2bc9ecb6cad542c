"""The benchmarks of the data stages, on little: both sides do the same work, and the tables say what was found."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import ingest, near_duplicates, plain_chain, plain_checks, scaling, validation
from benchmarks.manifests import LABELS, made_up
from labline.data.dataset import Dataset, open_dataset
from labline.data.ingest import ingest as decode_source
from labline.errors import BadInput, LablineError
from labline.usecase import Data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """120 images of 32 x 32 pixels in two classes, in an archive; two of them show the same."""
    path = tmp_path_factory.mktemp("data") / "cifar10.zip"
    generator = np.random.default_rng(0)
    drawn = [Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8)).resize((32, 32)) for _ in range(119)]
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate([*drawn, drawn[0]]):
            encoded = io.BytesIO()
            image.save(encoded, "JPEG", quality=90 if number < 119 else 70)
            archive.writestr(f"{'cat' if number % 2 else 'dog'}/{number:03d}.jpg", encoded.getvalue())
    return Data(source="image-folder", path=str(path), image_size=32)


@pytest.fixture(scope="module")
def dataset(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("dataset")
    decode_source(data, folder)
    return open_dataset(folder)


def test_great_expectations_and_pandas_reject_the_same_rows() -> None:
    result = validation.measure(rows=4000, rounds=1)
    assert result["ratio"] == pytest.approx(
        result["ours"]["validate, labline"]["seconds"] / result["theirs"]["validate, pandas"]["seconds"]
    )
    assert "4,000 rows" in validation.table(result)


def test_sides_that_disagree_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plain_checks.RANGES, "width", (0, 65_535))
    with pytest.raises(LablineError, match="rejects"):
        validation._compare(made_up(3000))


def test_the_faults_of_a_made_up_manifest_are_found() -> None:
    manifest = made_up(5000)
    held, broken = plain_checks.validate(manifest, LABELS)
    assert all(held.values()), "a thousandth is tolerated"
    faults = manifest["mean"].isna() | (manifest["width"] == 4) | (manifest["label"] == "unheard of")
    named = broken.loc[broken["check"] != "neither dark nor bright", "sample_id"]
    assert set(named) == set(manifest.loc[faults, "sample_id"])


def test_ingest_is_measured_beside_a_plain_loop(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "archive", lambda: Path(str(data.path)))
    monkeypatch.setattr(ingest, "declared_data", lambda: data)
    result = ingest.measure(rounds=1)
    assert result["settings"]["images"] == 120
    assert result["ratio"] == pytest.approx(
        result["ours"]["labline"]["per_second"] / result["theirs"]["plain loop"]["per_second"]
    )
    assert "torchvision, decoding alone" in ingest.table(result)


def test_the_near_duplicate_is_named(dataset: Dataset) -> None:
    assert near_duplicates._labline(dataset)["found"] == 1


def test_without_the_archive_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABLINE_DATA", str(tmp_path))
    with pytest.raises(BadInput, match="set it to the folder"):
        scaling.measure()


def test_growth_is_fitted_and_drawn(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scaling, "decoded", lambda folder: dataset)
    monkeypatch.setattr(scaling, "PICTURES", tmp_path)
    smallest = {"near duplicates": 7, "drift": 500, "windows": 2000}
    result = scaling.measure(smallest, rounds=1)
    assert result["ours"]["near duplicates"]["sizes"] == [7, 28, 112]
    assert (tmp_path / "scaling.png").is_file()
    assert [line.split("  ")[0] for line in scaling.table(result).splitlines()[1:4]] == list(smallest)


@pytest.mark.parametrize(("power", "holds"), [(1.0, True), (2.0, False)])
def test_a_square_law_is_seen(power: float, holds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([size**power for size in (10, 40, 160)])
    monkeypatch.setattr(scaling, "timed", lambda work: {"seconds": 1.0, "cpu_seconds": next(seconds)})
    growth = scaling._growth(lambda size: lambda: None, "made up", 10, rounds=1)
    assert growth.exponent == pytest.approx(power) and growth.holds is holds


def test_the_plain_chain_ends_with_an_accuracy(tmp_path: Path) -> None:
    settings = [
        "training.epochs=1",
        "data.options.samples=300",
        "cleaning.folds=2",
        'compression.passes=["int8-static"]',
    ]
    assert 0 <= plain_chain.chain([*settings, 'export.formats=["onnx"]'], tmp_path) <= 1
