"""Secrets from files and folders: what they fill in, what wins, and what is said where they cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.errors import BadInput
from tasks.environment import load_environment
from tasks.secrets import VARIABLE, load_secrets, read_secrets, write_secrets

NAMES = st.from_regex(r"[A-Z][A-Z_]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters="'\\"), min_size=1)


@given(secrets=st.dictionaries(NAMES, VALUES))
def test_what_is_written_is_read_again_by_its_owner_alone(
    secrets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("secrets") / "clients.env"
    write_secrets(path, secrets)
    assert read_secrets(path) == secrets
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_has_a_file_for_each_as_kubernetes_mounts_them(tmp_path: Path) -> None:
    (tmp_path / "..2026_11_24").mkdir()
    (tmp_path / "..2026_11_24" / "PGPASSWORD").write_text("geheim\n")
    (tmp_path / "..data").symlink_to("..2026_11_24")
    (tmp_path / "PGPASSWORD").symlink_to("..data/PGPASSWORD")
    assert read_secrets(tmp_path) == {"PGPASSWORD": "geheim"}


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_secrets(tmp_path / "secrets.env", {"PGUSER": "labline", "PGPASSWORD": "a$b#c d"})
    monkeypatch.setenv(VARIABLE, str(tmp_path / "secrets.env"))
    monkeypatch.setenv("PGUSER", "somebody")
    load_environment()
    assert (os.environ["PGUSER"], os.environ["PGPASSWORD"]) == ("somebody", "a$b#c d")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_what_cannot_be_read_is_bad_input(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "secrets.env").write_bytes(content)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "secrets.env"))
    with pytest.raises(BadInput, match="LABLINE_SECRETS=.* cannot be read"):
        load_secrets()
