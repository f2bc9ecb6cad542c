"""Bad input ends in quarantine or in one clear message and exit code 2."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pandas as pd
import pytest
from small_runs import ingested, invoke

from flows.checking import checking
from labline.errors import BadInput

pytestmark = pytest.mark.usefixtures("servers")


def huge_png(side: int) -> bytes:
    """A valid PNG header and a first chunk that would unpack to side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def quarantine(usecase: str) -> pd.DataFrame:
    """What ingest refused, by the name of the sample."""
    return pd.read_parquet(ingested(usecase).directory / "quarantine.parquet").set_index("sample_id")


def write_csv(declaration: Path, rows: list[str], header: str = "path,label") -> None:
    """Declare a CSV beside the folder of parts in place of the folder."""
    table = declaration.parent / "parts.csv"
    table.write_text("\n".join([header, *rows]) + "\n")
    declared = declaration.read_text().replace("image-folder", "csv").replace('/parts"', '/parts.csv"')
    declaration.write_text(declared)


def rows_of(parts: Path) -> list[str]:
    """A row of a CSV for each of the 240 images, with its path and its class."""
    files = sorted(parts.parent.glob("parts/*/*.png"))
    return [f"{file.relative_to(parts.parent)},{file.parent.name}" for file in files]


def test_one_percent_of_corrupt_files_is_quarantined_with_reasons_and_the_rest_goes_on(parts: Path) -> None:
    folder = parts.parent / "parts" / "bright"
    whole = (folder / "000.png").read_bytes()
    (folder / "000.png").write_bytes(whole[:80])  # 2 of 240 images
    (folder / "001.png").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no image")
    (folder / "bomb.png").write_bytes(huge_png(30_000))
    ended = invoke("check", str(parts), "--json")
    assert ended.code == 0, ended.err
    assert (ended.summary["samples"], ended.summary["quarantined"]) == (238, 4)

    refused = quarantine("parts")
    assert refused["expectation"].to_dict() == {
        "bright/000.png": "truncated",
        "bright/001.png": "empty",
        "bright/text.jpg": "not-an-image",
        "bright/bomb.png": "too-large",
    }
    assert refused["value"]["bright/bomb.png"] == "900000000", "pixels, told from the header alone"
    assert "data.max_pixels" in refused["reason"]["bright/bomb.png"]
    assert "no image format" in refused["reason"]["bright/text.jpg"]
    assert refused["value"].str.len().all() and refused["reason"].str.len().all()
    assert set(refused["source"]) == {f"{parts.parent}/parts"}


def test_an_empty_class_folder_is_no_class(parts: Path) -> None:
    (parts.parent / "parts" / "empty").mkdir()
    assert checking(str(parts))["samples"] == 240


def test_a_declared_class_without_images_is_refused(parts: Path) -> None:
    with pytest.raises(BadInput, match="broken"):
        checking(str(parts), assignments=['data.labels=["bright", "dark", "broken"]'])


def test_too_many_unreadable_files_stop_the_flow(parts: Path) -> None:
    for path in list((parts.parent / "parts" / "dark").iterdir())[:80]:
        path.write_bytes(b"")
    with pytest.raises(BadInput, match="max_rejected"):
        checking(str(parts))


def test_an_annotation_with_an_unknown_class_names_file_row_and_nearest_class(parts: Path) -> None:
    labels = parts.parent / "annotations.csv"
    labels.write_text("sample_id,label,annotator\nbright/001.png,bright,ann\nbright/002.png,brigt,ann\n")
    ended = invoke("run", str(parts), "--set", f'data.annotations="{labels}"')
    assert ended.code == 2
    assert "annotations.csv, row 3: unknown class 'brigt': did you mean 'bright'?" in ended.err


def test_a_missing_path_is_named(parts: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        checking(str(parts), data="nowhere")


def test_a_network_with_wrong_answers_is_refused_before_training(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong_network.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self): super().__init__(); self.layer = nn.Flatten()\n"
        "    def forward(self, images): return self.layer(images)\n"
    )
    with pytest.raises(BadInput, match="wrong_network:Net"):
        checking(str(parts), assignments=["model.architecture=wrong_network:Net"])


def test_a_loader_that_returns_nonsense_is_refused(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong_loader.py").write_text("def load(data): return 'nonsense'\n")
    with pytest.raises(BadInput, match="wrong_loader:load"):
        checking(str(parts), assignments=["data.source=wrong_loader:load"])


def test_a_loader_in_a_package_that_is_not_there_is_refused(parts: Path) -> None:
    with pytest.raises(BadInput, match=r"absent\.part.*cannot be imported"):
        checking(str(parts), assignments=["data.source=absent.part:load"])


def test_csv_rows_of_an_unknown_class_are_quarantined_one_by_one(parts: Path) -> None:
    write_csv(parts, [*rows_of(parts)[:-2], "parts/dark/118.png,drak", "parts/dark/119.png,rust"])
    ended = invoke("check", str(parts), "--json", "--set", 'data.labels=["bright", "dark"]')
    assert ended.code == 0, ended.err
    assert (ended.summary["samples"], ended.summary["quarantined"]) == (238, 2)
    refused = quarantine("parts")
    assert set(refused["expectation"]) == {"unknown-label"}
    assert refused["value"].to_dict() == {"parts/dark/118.png": "drak", "parts/dark/119.png": "rust"}
    assert "did you mean 'dark'" in refused["reason"]["parts/dark/118.png"]
    assert "valid names: bright, dark" in refused["reason"]["parts/dark/119.png"]


def test_csv_rows_without_a_file_are_quarantined_one_by_one(parts: Path) -> None:
    write_csv(parts, [*rows_of(parts), "parts/dark/absent.png,dark"])
    ended = invoke("check", str(parts), "--json")
    assert ended.code == 0, ended.err
    assert quarantine("parts")["expectation"].to_dict() == {"parts/dark/absent.png": "missing"}


def test_a_csv_whose_files_are_all_elsewhere_is_refused(parts: Path) -> None:
    write_csv(parts, [f"elsewhere/{row}" for row in rows_of(parts)])
    ended = invoke("check", str(parts), "--json")
    assert ended.code == 2
    assert "240 of 240 samples" in ended.err
    assert "missing: 240, such as elsewhere/parts/bright/000.png" in ended.err


def test_a_csv_without_the_columns_is_refused_with_those_it_has(parts: Path) -> None:
    write_csv(parts, rows_of(parts), header="path,lable")
    ended = invoke("check", str(parts), "--json")
    assert ended.code == 2
    assert ended.summary["exit_code"] == 2
    for told in ("parts.csv, row 1", "'label' is missing", "did you mean 'lable'"):
        assert told in ended.err


OWN_NETWORK = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, channels, classes):
        super().__init__(
            nn.Conv2d(channels, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
        )
"""
OWN_LOADER = """
import numpy as np

def load(data):
    random = np.random.default_rng(0)
    labels = ["low", "high"] * 120
    greys = np.where(np.array(labels) == "low", 70, 180)[:, None, None]
    images = random.normal(greys, 30, (240, data.image_size, data.image_size)).clip(0, 255)
    return images.astype("uint8"), labels
"""


def test_a_users_own_network_and_loader_are_found_beside_their_declaration(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mynet.py").write_text(OWN_NETWORK)
    (tmp_path / "myreader.py").write_text(OWN_LOADER)
    declared = parts.read_text().replace('name = "parts"', 'name = "own"').replace("image-folder", "myreader:load")
    parts.write_text(declared + '[model]\narchitecture = "mynet:Net"\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ended = invoke("run", str(parts), "--json")
    assert ended.code == 0, ended.err
    assert (ended.summary["usecase"], ended.summary["version"]) == ("own", "1")


def test_a_users_own_network_is_found_in_the_current_folder(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "nearnet.py").write_text(OWN_NETWORK)
    monkeypatch.chdir(tmp_path / "elsewhere")
    ended = invoke("check", str(parts), "--set", "model.architecture=nearnet:Net")
    assert ended.code == 0, ended.err
