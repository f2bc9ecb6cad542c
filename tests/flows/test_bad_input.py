"""Bad input ends in quarantine or in one clear message and exit code 2."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest

from flows.checking import checking
from flows.training import training
from labline.errors import BadInput

pytestmark = pytest.mark.usefixtures("servers")


def huge_png(side: int) -> bytes:
    """A valid PNG header and a first chunk that would unpack to side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_unreadable_files_are_quarantined_and_the_rest_goes_on(parts: Path) -> None:
    folder = parts.parent / "parts" / "bright"
    (folder / "000.png").write_bytes((folder / "000.png").read_bytes()[:80])
    (folder / "text.jpg").write_text("this is no image")
    (folder / "bomb.png").write_bytes(huge_png(30_000))
    found = checking(str(parts))
    assert found["quarantined"] == 3
    assert found["samples"] == 239


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
    with pytest.raises(BadInput, match=r"annotations\.csv.*3.*brigt.*bright"):
        training(str(parts), assignments=[f'data.annotations="{labels}"'])


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


def test_the_storage_filling_up_in_the_middle_is_said_in_one_sentence(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("labline.data.ingest.write_dataset", full)
    with pytest.raises(BadInput, match=r"No space left.*LABLINE_STORE"):
        checking(str(parts), assignments=["data.image_size=20"])


def test_a_users_own_network_and_loader_work_by_declaration_alone(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, channels, classes):\n"
        "        super().__init__(nn.Conv2d(channels, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(8, classes))\n"
        "def load(data):\n"
        "    random = np.random.default_rng(0)\n"
        "    labels = ['low', 'high'] * 120\n"
        "    greys = np.where(np.array(labels) == 'low', 70, 180)[:, None, None]\n"
        "    images = random.normal(greys, 30, (240, data.image_size, data.image_size)).clip(0, 255)\n"
        "    return images.astype('uint8'), labels\n"
    )
    declared = ["name=own", "data.source=own:load", "model.architecture=own:Net", "training.epochs=5"]
    summary = training(str(parts), assignments=declared)
    assert summary["usecase"] == "own"
    assert summary["version"] == "1"
