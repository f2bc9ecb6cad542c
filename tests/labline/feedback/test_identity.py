"""Ids of predictions: in order, and recognised without looking anything up."""

from __future__ import annotations

import stat
import threading
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.errors import BadInput
from labline.feedback import feedback_key, issued, new_id

KEY, OTHER = b"a" * 32, b"b" * 32


def test_an_id_is_a_version_7_uuid_of_now_and_a_check() -> None:
    before = time.time_ns() // 1_000_000
    made = new_id(KEY)
    assert len(made) == 40
    assert uuid.UUID(made[:32]).version == 7 and uuid.UUID(made[:32]).variant == uuid.RFC_4122
    assert before <= int(made[:12], 16) <= time.time_ns() // 1_000_000


def test_ids_sort_by_time_and_are_never_the_same() -> None:
    made = []
    for _ in range(200):
        made.append(new_id(KEY))
        time.sleep(1e-5)  # longer than the quarter of a microsecond that ids tell apart
    assert made == sorted(made)
    assert len({new_id(KEY) for _ in range(10_000)}) == 10_000


def test_only_what_was_made_with_the_key_was_issued() -> None:
    made = new_id(KEY)
    assert issued(made, KEY) and not issued(made, OTHER)
    changed = made[:5] + ("0" if made[5] != "0" else "1") + made[6:]
    assert not issued(changed, KEY)
    assert not issued(made.upper(), KEY) or made.upper() == made


@given(st.text(max_size=60) | st.text("0123456789abcdef", min_size=40, max_size=40))
def test_any_text_may_be_asked_about(text: str) -> None:
    assert issued(text, KEY) is False


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABLINE_FEEDBACK_KEY", raising=False)
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(feedback_key(tmp_path / "s", "steel"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8 and len(set(keys)) == 1, "workers that start together agree"
    assert stat.S_IMODE((tmp_path / "s" / "key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["key"]
    assert feedback_key(tmp_path / "s", "surface") != keys[0], "ids of another use case are not taken"


def test_a_secret_in_the_environment_makes_machines_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABLINE_FEEDBACK_KEY", "x" * 32)
    assert feedback_key(tmp_path / "one", "steel") == feedback_key(tmp_path / "two", "steel")
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("LABLINE_FEEDBACK_KEY", "short")
    with pytest.raises(BadInput, match="at least 16"):
        feedback_key(tmp_path, "steel")


def test_a_secret_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABLINE_FEEDBACK_KEY", raising=False)
    (tmp_path / "key").write_text("")
    with pytest.raises(BadInput, match="delete the file"):
        feedback_key(tmp_path, "steel")
