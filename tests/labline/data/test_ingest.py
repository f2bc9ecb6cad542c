from __future__ import annotations

import errno
import io
import logging
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from labline.data import storing
from labline.data.dataset import MANIFEST_COLUMNS, QUARANTINE_COLUMNS, Dataset, open_dataset
from labline.data.ingest import fingerprint, ingest
from labline.errors import BadInput
from labline.usecase import Data


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (20, 24), shade).save(buffer, "JPEG")
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A valid PNG header of any size, with next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


def shades(folder: Path, count: int = 100) -> Path:
    """A folder of two classes: dark and bright images, `count` in all, each of its own shade."""
    for number in range(count):
        path = folder / ("dark" if number < count // 2 else "bright") / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number * 255 // count))
    return folder


def declared(path: Path, source: str = "image-folder", **keys: Any) -> Data:
    return Data(source=source, path=str(path), image_size=16, channels=1, **keys)


def quarantine_of(directory: Path) -> dict[str, str]:
    table = pd.read_parquet(directory / "quarantine.parquet")
    assert tuple(table.columns) == QUARANTINE_COLUMNS and set(table["stage"]) <= {"ingest"}
    return dict(zip(table["sample_id"], table["expectation"], strict=True))


def assert_same(one: Dataset, other: Dataset) -> None:
    pd.testing.assert_frame_equal(one.manifest.drop(columns="source"), other.manifest.drop(columns="source"))
    assert np.array_equal(one.images, other.images)


def test_a_folder_becomes_a_dataset(tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    found = ingest(declared(shades(tmp_path / "in")), tmp_path / "out", on_progress=lambda *done: reported.append(done))
    dataset = open_dataset(tmp_path / "out")
    assert (found.samples, found.quarantined, found.labels) == (100, 0, ("bright", "dark"))
    assert tuple(dataset.manifest.columns) == MANIFEST_COLUMNS
    assert dataset.images.shape == (100, 16, 16, 1) and dataset.images.dtype == np.uint8
    assert dataset.manifest["split"].value_counts().to_dict() == {"train": 70, "validation": 15, "test": 15}
    assert reported[-1] == (100, 100)
    row = dataset.manifest.set_index("sample_id").loc["dark/0020.jpg"]
    assert (row["width"], row["height"], row["bytes"]) == (20, 24, len(jpeg(51)))
    assert row["mean"] == pytest.approx(51, abs=1) and row["std"] == pytest.approx(0, abs=0.1)
    assert dataset.images[row["row"]].mean() == pytest.approx(row["mean"])


def test_bad_files_are_quarantined_and_the_rest_goes_on(tmp_path: Path) -> None:
    source = shades(tmp_path / "in", 500)
    (source / "dark/text.jpg").write_text("not a picture")
    (source / "dark/bomb.png").write_bytes(png_header(30_000, 30_000))
    (source / "dark/empty.jpg").write_bytes(b"")
    (source / "bright/truncated.jpg").write_bytes(jpeg(200)[:-100])
    (source / "bright/report.pdf").write_bytes(b"%PDF-1.7")
    found = ingest(declared(source), tmp_path / "out")
    assert (found.samples, found.quarantined) == (500, 5)
    assert quarantine_of(tmp_path / "out") == {
        "dark/text.jpg": "not-an-image",
        "dark/bomb.png": "too-large",
        "dark/empty.jpg": "empty",
        "bright/truncated.jpg": "truncated",
        "bright/report.pdf": "not-an-image-file",
    }
    dataset = open_dataset(tmp_path / "out")
    stored_means = dataset.images[dataset.manifest["row"]].reshape(500, -1).mean(axis=1)
    assert stored_means == pytest.approx(dataset.manifest["mean"], abs=1e-3)


def test_too_many_bad_files_stop_the_flow_and_say_which_and_what_to_do(tmp_path: Path) -> None:
    source = shades(tmp_path / "in", 60)
    for number in range(40):
        (source / f"dark/{number}.txt.jpg").write_text("not a picture")
    with pytest.raises(BadInput, match=r"40 of 100 samples \(40.0%\) .*not-an-image: 40, such as .*data.max_rejected"):
        ingest(declared(source), tmp_path / "out")
    assert ingest(declared(source, max_rejected=0.5), tmp_path / "out").quarantined == 40


def test_nothing_but_bad_files_is_bad_input_whatever_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "in/cat").mkdir(parents=True)
    (tmp_path / "in/cat/1.jpg").write_text("not a picture")
    with pytest.raises(BadInput, match="nothing is left"):
        ingest(declared(tmp_path / "in", max_rejected=1.0), tmp_path / "out")


def test_a_folder_without_images_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(BadInput, match="holds no images; expected one folder of images for each class"):
        ingest(declared(tmp_path / "in"), tmp_path / "out")


def test_an_empty_class_folder_is_reported_and_does_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = shades(tmp_path / "in")
    (source / "grey").mkdir()
    with caplog.at_level(logging.WARNING):
        found = ingest(declared(source), tmp_path / "out")
    assert found.labels == ("bright", "dark") and found.empty_labels == ("grey",)
    assert "class 'grey' has no usable image" in caplog.text


def test_a_declared_class_must_have_images(tmp_path: Path) -> None:
    source = shades(tmp_path / "in")
    (source / "grey").mkdir()
    with pytest.raises(BadInput, match="data.labels declares 'grey'"):
        ingest(declared(source, labels=["dark", "grey", "bright"]), tmp_path / "out")


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    source = shades(tmp_path / "in")
    (source / "dark").rename(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="images of one class only, 'bright'"):
        ingest(declared(source), tmp_path / "out")


def test_a_class_too_small_to_split_is_named(tmp_path: Path) -> None:
    source = shades(tmp_path / "in")
    (source / "grey").mkdir()
    (source / "grey/1.jpg").write_bytes(jpeg(128))
    with pytest.raises(BadInput, match="class 'grey' has 1 samples"):
        ingest(declared(source), tmp_path / "out")


def test_folder_and_archive_give_the_same_dataset(tmp_path: Path) -> None:
    source = shades(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in source.rglob("*.jpg"):
            archive.write(path, Path("wrapper") / path.relative_to(source))
    of_folder = ingest(declared(source), tmp_path / "1")
    of_archive = ingest(declared(tmp_path / "in.zip"), tmp_path / "2")
    assert of_folder.digest == of_archive.digest
    assert_same(open_dataset(tmp_path / "1"), open_dataset(tmp_path / "2"))


def test_the_number_of_processes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "BATCH_FILES", 30)
    source = shades(tmp_path / "in")
    (source / "dark/text.jpg").write_text("not a picture")
    assert ingest(declared(source), tmp_path / "1", workers=1) == ingest(declared(source), tmp_path / "2", workers=2)
    assert_same(open_dataset(tmp_path / "1"), open_dataset(tmp_path / "2"))
    assert quarantine_of(tmp_path / "1") == quarantine_of(tmp_path / "2")


def test_a_damaged_member_of_an_archive_is_quarantined(tmp_path: Path) -> None:
    source = shades(tmp_path / "in", 40)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in sorted(source.rglob("*.jpg")):
            archive.write(path, path.relative_to(source))
    stored = bytearray((tmp_path / "in.zip").read_bytes())
    stored[stored.index(b"dark/0003.jpg") + 100] ^= 0xFF
    (tmp_path / "in.zip").write_bytes(stored)
    ingest(declared(tmp_path / "in.zip"), tmp_path / "out")
    assert quarantine_of(tmp_path / "out") == {"dark/0003.jpg": "corrupt"}


def test_a_csv_names_files_that_may_be_missing_and_classes_that_may_be_unknown(tmp_path: Path) -> None:
    source = shades(tmp_path / "in")
    rows = [f"{path.relative_to(source)},{path.parent.name}" for path in sorted(source.rglob("*.jpg"))]
    rows[0] = rows[0].replace(",bright", ",brihgt")
    rows.append("dark/gone.jpg,dark")
    (source / "labels.csv").write_text("path,label\n" + "\n".join(rows))
    found = ingest(declared(source / "labels.csv", "csv", labels=["dark", "bright"]), tmp_path / "out")
    assert (found.samples, found.labels) == (99, ("dark", "bright"))
    assert quarantine_of(tmp_path / "out") == {"bright/0050.jpg": "unknown-label", "dark/gone.jpg": "missing"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1), (16, 16, 3), (20, 30), (20, 30, 3)])
def test_arrays_of_any_shape_become_squares(
    shape: tuple[int, ...], channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_arrays.py").write_text(
        "import numpy as np\n"
        "def load(settings):\n"
        "    shape = settings.options['shape']\n"
        "    images = np.stack([np.full(shape, number, np.uint8) for number in range(40)])\n"
        "    return images, [number % 2 for number in range(40)]\n"
    )
    settings = Data(
        source="own_arrays:load", image_size=16, channels=channels, options={"shape": shape}, labels=["a", "b"]
    )
    ingest(settings, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.images.shape == (40, 16, 16, channels)
    assert np.array_equal(dataset.images.reshape(40, -1).max(axis=1), np.arange(40))
    assert set(dataset.manifest["width"]) == {shape[1]} and set(dataset.manifest["height"]) == {shape[0]}


def test_a_full_disk_is_an_error_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_space, raising=False)
    with pytest.raises(OSError, match="No space left"):
        ingest(declared(shades(tmp_path / "in")), tmp_path / "out")


def test_the_fingerprint_changes_with_the_source_and_only_then(tmp_path: Path) -> None:
    source = shades(tmp_path / "in", 10)
    settings = declared(source)
    before = fingerprint(settings)
    assert fingerprint(settings) == before
    (source / "dark/0001.jpg").write_bytes(jpeg(77) + b"longer")
    changed = fingerprint(settings)
    (source / "dark/0002.jpg").unlink()
    assert len({before, changed, fingerprint(settings)}) == 3


def test_the_fingerprint_of_a_csv_covers_the_files_it_lists(tmp_path: Path) -> None:
    source = shades(tmp_path / "in", 10)
    (source / "labels.csv").write_text("path,label\ndark/0001.jpg,dark\n")
    settings = declared(source / "labels.csv", "csv")
    before = fingerprint(settings)
    (source / "dark/0002.jpg").unlink()
    assert fingerprint(settings) == before
    (source / "dark/0001.jpg").unlink()
    assert fingerprint(settings) != before


def test_the_fingerprint_of_a_users_function_covers_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "own_fingerprinted.py"
    module.write_text("def load(settings): ...\n")
    settings = Data(source="own_fingerprinted:load", image_size=16)
    before = fingerprint(settings)
    module.write_text("def load(settings): return None\n")
    assert fingerprint(settings) != before


def test_the_fingerprint_of_rendered_data_covers_the_options() -> None:
    dim, bright = (Data(source="surfaces", image_size=16, options={"lighting": light}) for light in (-1.0, 1.0))
    assert fingerprint(dim) != fingerprint(bright)


# --- real data ---------------------------------------------------------------------------------------------------


def test_neu_steel(real_data: Path, tmp_path: Path) -> None:
    found = ingest(declared(real_data / "neu-steel.zip"), tmp_path)
    assert (found.samples, found.quarantined, len(found.labels)) == (1800, 0, 6)
    counts = pd.crosstab(open_dataset(tmp_path).manifest["label"], open_dataset(tmp_path).manifest["split"])
    assert (counts == [45, 210, 45]).all(axis=None)


def test_pneumoniamnist(real_data: Path, tmp_path: Path) -> None:
    settings = declared(real_data / "pneumoniamnist.npz", "medmnist-npz", labels=["normal", "pneumonia"])
    ingest(settings.model_copy(update={"image_size": 28}), tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.manifest["split"].value_counts().to_dict() == {"train": 3882, "test": 624, "validation": 524}
    with np.load(real_data / "pneumoniamnist.npz") as arrays:
        assert np.array_equal(dataset.split("test")[0][..., 0], arrays["test_images"])
        assert np.array_equal(dataset.split("test")[1], arrays["test_labels"][:, 0])
