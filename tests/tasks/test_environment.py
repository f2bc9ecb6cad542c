"""Where things are kept, and what is said where they cannot be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from labline.errors import BadInput
from tasks.environment import PROJECT, load_environment


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "PREFECT_", "LABLINE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["mount", "-o", "remount,rw", folder], check=False)
    subprocess.run(["umount", folder], check=True)


def test_everything_lies_under_the_storage_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABLINE_STORE", str(tmp_path / "store"))
    assert load_environment() == tmp_path / "store"
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/store/mlflow/mlflow.db"
    assert os.environ["PREFECT_HOME"] == f"{tmp_path}/store/prefect"


def test_real_environment_variables_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABLINE_STORE", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5001")
    load_environment()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5001"
    assert os.environ["MLFLOW_REGISTRY_URI"] == "http://127.0.0.1:5001"


def test_a_relative_storage_root_lies_in_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABLINE_STORE", os.path.relpath(tmp_path, PROJECT))
    monkeypatch.chdir(tmp_path)
    assert load_environment().resolve() == tmp_path.resolve()


def test_a_storage_root_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABLINE_STORE", "gs://bucket/labline")
    with pytest.raises(BadInput, match="not gs://"):
        load_environment()


def test_a_storage_root_under_a_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABLINE_STORE", str(tmp_path / "file" / "store"))
    with pytest.raises(BadInput, match="cannot be written"):
        load_environment()


def test_a_read_only_storage_root_is_refused(monkeypatch: pytest.MonkeyPatch, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    monkeypatch.setenv("LABLINE_STORE", str(small_disk))
    with pytest.raises(BadInput, match=r"Read-only.*LABLINE_STORE"):
        load_environment()


def test_a_full_storage_root_is_refused(monkeypatch: pytest.MonkeyPatch, small_disk: Path) -> None:
    monkeypatch.setenv("LABLINE_STORE", str(small_disk))
    with pytest.raises(BadInput, match="is full"):
        load_environment()
