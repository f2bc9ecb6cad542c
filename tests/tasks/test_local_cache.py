"""The bound of the cache: what was used longest ago goes, and nothing that is in use or lies nowhere else."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.errors import BadInput
from tasks.local_cache import limit_bytes, make_room, stop_using, use
from tasks.publication import MARKER


@dataclass(frozen=True)
class Folder:
    bytes: int
    age: int
    in_use: bool
    published: bool


folders = st.lists(
    st.builds(Folder, bytes=st.integers(0, 100), age=st.integers(0, 5), in_use=st.booleans(), published=st.booleans()),
    max_size=8,
)


def fill(cache: Path, described: list[Folder]) -> dict[str, Folder]:
    named = {f"stages/made/{number}": folder for number, folder in enumerate(described)}
    for name, folder in named.items():
        use(cache, name).mkdir(parents=True)
        (cache / name / "file").write_bytes(bytes(folder.bytes))
        if folder.published:
            (cache / name / MARKER).write_text(json.dumps({"bytes": folder.bytes}))
        if not folder.in_use:
            stop_using(cache, name)
        used = 1_000_000 - folder.age
        os.utime(cache / "locks" / name.replace("/", "-"), (used, used))
    return named


@settings(max_examples=60)
@given(described=folders, limit=st.integers(0, 300), needed=st.integers(0, 100))
def test_only_what_was_used_longest_ago_goes_and_no_more_than_must(
    described: list[Folder], limit: int, needed: int
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABLINE_CACHE_BYTES", str(limit))
        cache = Path(folder)
        named = fill(cache, described)
        removed = make_room(cache, needed)
        for name in named:
            stop_using(cache, name)
        here = {name for name in named if (cache / name / "file").is_file()}
        assert here == named.keys() - set(removed)

    may_go = {name for name, folder in named.items() if folder.published and not folder.in_use}
    assert set(removed) <= may_go
    assert all(named[gone].age >= named[kept].age for gone in removed for kept in may_go & here)
    total = sum(named[name].bytes for name in here if named[name].published) + needed
    assert total <= limit or not may_go & here
    if removed:
        assert total + named[removed[-1]].bytes > limit


def test_what_is_used_again_is_the_last_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABLINE_CACHE_BYTES", "150")
    fill(tmp_path, [Folder(100, 2, False, True), Folder(100, 1, False, True)])
    use(tmp_path, "stages/made/0")
    stop_using(tmp_path, "stages/made/0")
    assert make_room(tmp_path) == ["stages/made/1"]


def test_a_bound_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABLINE_CACHE_BYTES", "20GiB")
    with pytest.raises(BadInput, match="LABLINE_CACHE_BYTES is '20GiB': a whole number of bytes"):
        limit_bytes()
