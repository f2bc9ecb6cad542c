"""Many samples at once: the same answers as the service's, whatever they come in, and parts that outlive a run."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from malformed import encode
from running_service import VOLATILITY
from small_models import series_model
from small_versions import LABELS, SIZE, write_version

from labline.batch_inference import (
    ANSWERS,
    Job,
    answer_chunks,
    answer_columns,
    finished_parts,
    put_together,
)
from labline.batch_inputs import list_input
from labline.errors import BadInput
from labline.packaged_model import PackagedModel, open_model
from labline.sharding import processes
from serving.answers import say
from serving.decoding import Limits, decode_body

COUNT = 30
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 12, 12, 1), dtype=np.uint8)
FILES = [encode(pixels, "PNG" if n % 2 else "JPEG") for n, pixels in enumerate(IMAGES)]
NAMES = [f"{'left/' if n % 3 else ''}{n:03}.{'png' if n % 2 else 'jpg'}" for n in range(COUNT)]

Answer = Callable[..., tuple[pd.DataFrame, pd.DataFrame]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PackagedModel:
    return open_model(write_version(tmp_path_factory.mktemp("model") / "version", 0.01))


@pytest.fixture
def answer(model: PackagedModel, tmp_path: Path) -> Answer:
    """Answers everything in a source; gives the answers and the refusals."""

    def run(source: Path, workers: int = 1, out: str = "out.parquet") -> tuple[pd.DataFrame, pd.DataFrame]:
        listing = list_input(source, model.kind, model.input)
        parts = tmp_path / "parts"
        parts.mkdir(exist_ok=True)
        job = Job("7", model.folder, listing.content, listing.column, parts, 8, 2**20)
        with processes(workers) as pool:
            answer_chunks(job, listing.read(finished_parts(parts)), pool, lambda samples: None)
        quarantine = tmp_path / "quarantine.parquet"
        put_together(parts, tmp_path / out, quarantine)
        read = pd.read_csv if out.endswith(".csv") else pd.read_parquet
        refused = pd.read_parquet(quarantine) if quarantine.is_file() else pd.DataFrame()
        return read(tmp_path / out), refused

    return run


def folder_of_images(folder: Path) -> Path:
    (folder / "left").mkdir(parents=True)
    for name, encoded in zip(NAMES, FILES, strict=True):
        (folder / name).write_bytes(encoded)
    return folder


def archive_of_images(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, encoded in zip(NAMES, FILES, strict=True):
            archive.writestr(name, encoded)
    return path


def table_of_paths(path: Path) -> Path:
    folder_of_images(path.parent / "images")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["Path", "note"], *([f"images/{name}", "x"] for name in NAMES)])
    return path


def table_of_images(path: Path) -> Path:
    pq.write_table(pa.table({"id": NAMES, "image": FILES}), path, row_group_size=7)
    return path


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (folder_of_images, "folder"),
        (archive_of_images, "images.zip"),
        (table_of_paths, "images.csv"),
        (table_of_images, "images.parquet"),
    ],
)
def test_images_are_answered_as_the_service_answers_them(
    make: Callable[[Path], Path], name: str, answer: Answer, model: PackagedModel, tmp_path: Path
) -> None:
    answers, refused = answer(make(tmp_path / name))
    assert len(answers) == COUNT and refused.empty
    assert set(answers["version"]) == {"7"}
    names = answers.iloc[:, 0].str.removeprefix("images/")
    for shown, row in zip(names, answers.to_dict("records"), strict=True):
        encoded = FILES[NAMES.index(shown)]
        asked = decode_body(encoded, "image/png", model, Limits())
        (said,) = say(model, model.predict(asked.inputs))
        assert row["label"] == said.answer
        assert row["confidence"] == pytest.approx(said.confidence, abs=1e-6)
        assert [row[f"probability_{label}"] for label in LABELS] == pytest.approx(said.outputs, abs=1e-6)


def test_pixels_are_answered_by_their_row(answer: Answer, model: PackagedModel, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (700, SIZE, SIZE, 1), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    answers, _ = answer(tmp_path / "pixels.npy")
    assert answers["row"].tolist() == list(range(700))
    assert np.allclose(answers[[f"probability_{label}" for label in LABELS]], model.predict(pixels), atol=1e-6)


def test_what_cannot_be_read_is_refused_with_the_reason(answer: Answer, tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "folder")
    (folder / "broken.png").write_bytes(FILES[1][:-30])
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("hello")
    (folder / ".DS_Store").write_text("litter")
    (folder / "nowhere.png").symlink_to("gone.png")
    (folder / "left" / "again").symlink_to(folder, target_is_directory=True)
    answers, refused = answer(folder)
    assert sorted(answers["path"]) == sorted(NAMES)
    kinds = refused.set_index("sample_id")["expectation"].to_dict()
    assert kinds.pop("broken.png") in ("truncated", "corrupt")
    assert kinds == {"empty.png": "empty", "notes.txt": "not-an-image", "nowhere.png": "missing"}
    assert refused["reason"].str.len().min() > 0


def test_rows_without_a_path_or_an_image_are_refused(answer: Answer, tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table({"image": [FILES[0], None, b"junk"]}), path)
    answers, refused = answer(path)
    assert answers["id"].tolist() == ["0"] and refused["expectation"].tolist() == ["empty", "not-an-image"]


def test_finished_parts_are_not_made_again(answer: Answer, tmp_path: Path) -> None:
    pixels = np.zeros((1500, SIZE, SIZE, 1), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    before, _ = answer(tmp_path / "pixels.npy")
    parts = sorted((tmp_path / "parts").glob(f"*{ANSWERS}"))
    assert len(parts) == 3
    kept = {path: path.stat().st_mtime_ns for path in parts}
    parts[1].unlink()
    after, _ = answer(tmp_path / "pixels.npy")
    pd.testing.assert_frame_equal(before, after)
    changed = [path for path, moment in kept.items() if path.stat().st_mtime_ns != moment]
    assert changed == [parts[1]]


def test_more_processes_and_csv_give_the_same(answer: Answer, tmp_path: Path) -> None:
    source = tmp_path / "many.parquet"
    pq.write_table(pa.table({"image": FILES * 40}), source)
    alone, _ = answer(source)
    for path in (tmp_path / "parts").iterdir():
        path.unlink()
    together, _ = answer(source, workers=2, out="out.csv")
    assert together["id"].tolist() == [int(name) for name in alone["id"]]
    assert together["label"].tolist() == alone["label"].tolist()
    assert np.allclose(together["confidence"], alone["confidence"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("gone", None, "there is nothing at"),
        ("images.tar", b"x", "is none that a classifier takes"),
        ("images.zip", b"x", "cannot be opened as a .zip"),
        ("images.csv", b"file\nx.png\n", "the column 'path' is missing"),
        ("images.csv", b"path\n", "there is no file in"),
        ("images.csv", b"path\n\xff\n", "cannot be read as CSV"),
        ("images.parquet", b"x", "cannot be read as .parquet"),
        ("images.npy", b"x", "cannot be read as .npy"),
    ],
)
def test_an_input_that_is_none_is_refused(
    name: str, content: bytes | None, told: str, model: PackagedModel, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=told):
        list_input(tmp_path / name, model.kind, model.input)


def test_an_array_of_another_shape_is_refused(model: PackagedModel, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", np.zeros((3, 5, 5, 1), np.uint8))
    with pytest.raises(BadInput, match=r"N x 8 x 8 x 1, was expected, got uint8 3 x 5 x 5 x 1"):
        list_input(tmp_path / "pixels.npy", model.kind, model.input)


@pytest.mark.parametrize(
    ("head", "outputs", "labels"),
    [("gaussian", 2, ()), ("quantile", 3, ()), ("point", 1, ()), ("classes", 2, ("not higher", "higher"))],
)
def test_forecasts_are_those_that_the_service_shows(
    head: str, outputs: int, labels: tuple[str, ...], tmp_path: Path
) -> None:
    quantiles = "quantiles = [0.1, 0.5, 0.9]"
    declaration = VOLATILITY.replace('head = "gaussian"', f'head = "quantile"\n{quantiles}')
    model = replace(series_model(tmp_path, declaration, 20, 2), head=head, labels=labels)
    answers = np.sort(np.random.default_rng(0).normal(size=(20, outputs)).astype(np.float32))
    columns = answer_columns(model, answers, (0.1, 0.5, 0.9))
    rows = pd.DataFrame({name: np.asarray(values) for name, values in columns.items()}).to_dict("records")
    for row, said in zip(rows, say(model, answers), strict=True):
        shown = dict(said.shown)
        if head == "classes":
            expected = {f"probability_{label}": share for label, share in shown.pop("probabilities").items()} | shown
        else:
            forecast = shown["forecast"]
            levels = {f"quantile_{level}": value for level, value in forecast.pop("quantiles", {}).items()}
            expected = {f"forecast_{name}": value for name, value in (forecast | levels).items()}
        assert row.keys() == expected.keys()
        assert row.pop("label", None) == expected.pop("label", None)
        assert row == pytest.approx(expected, abs=1e-6)
