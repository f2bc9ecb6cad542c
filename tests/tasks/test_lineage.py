"""Lineage: which code, packages and machine made a model, and what differs from that now."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from labline.declaration import load_usecase
from labline.usecase import ImageUseCase
from tasks.environment import USECASES
from tasks.lineage import commit, differences, facts, read_facts, write_facts


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with a source file and a page of text."""
    (tmp_path / "labline").mkdir()
    (tmp_path / "labline" / "training.py").write_text("epochs = 1\n")
    (tmp_path / "README.md").write_text("read me\n")
    author = ("-c", "user.name=ann", "-c", "user.email=ann@example.org")
    for arguments in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path


@pytest.fixture(scope="module")
def surface() -> ImageUseCase:
    return load_usecase("surface", USECASES)


def test_the_commit_is_that_of_the_sources(repository: Path) -> None:
    assert len(commit(repository)) == 40
    (repository / "README.md").write_text("changed, and decides nothing\n")
    assert len(commit(repository)) == 40


@pytest.mark.parametrize("name", ["training.py", "added.py"])
def test_changed_and_added_sources_are_said(repository: Path, name: str) -> None:
    clean = commit(repository)
    (repository / "labline" / name).write_text("epochs = 2\n")
    assert commit(repository) == f"{clean}+changes"


def test_outside_git_and_in_the_repository_of_others_it_is_unknown(repository: Path) -> None:
    assert commit(repository / "labline") == "unknown"
    assert commit(Path("/")) == "unknown"


def test_facts_name_code_packages_and_machine(surface: ImageUseCase) -> None:
    found = facts(surface)
    assert len(found["lock.sha256"]) == 64
    assert found["torch"].startswith("2.")
    assert int(found["threads"]) >= 1
    assert found["precision"] in ("float32", "bfloat16")
    assert facts(surface) == found


def test_the_users_own_module_is_one_of_the_facts(
    surface: ImageUseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net_of_ann.py").write_text("class Net: ...\n")
    own = surface.model_copy(update={"model": surface.model.model_copy(update={"architecture": "net_of_ann:Net"})})
    before = facts(own)
    (tmp_path / "net_of_ann.py").write_text("class Net: deeper = True\n")
    assert differences(before, facts(own))[0].startswith("net_of_ann:Net: ")


def test_what_training_left_counts_more_than_what_is_now(surface: ImageUseCase, tmp_path: Path) -> None:
    write_facts(tmp_path, surface)
    trained = (tmp_path / "environment.json").read_text()
    (tmp_path / "environment.json").write_text(trained.replace(facts(surface)["torch"], "2.0.0"))
    assert read_facts(tmp_path, surface)["torch"] == "2.0.0"


def test_the_same_facts_differ_in_nothing(surface: ImageUseCase) -> None:
    assert differences(facts(surface), facts(surface)) == []


def test_another_package_means_other_bits_and_another_commit_alone_does_not() -> None:
    recorded = {"code.commit": "a" * 40, "code.sha256": "b" * 64, "torch": "2.14.1", "reason": "drift"}
    assert differences(recorded, {**recorded, "code.commit": "c" * 40 + "+changes"}) == [
        "code.commit: aaaaaaaaaaaa in training, cccccccccccc+changes here"
    ]
    found = differences(recorded, {"torch": "2.15.0", "threads": "4"})
    assert found == [
        "torch: 2.14.1 in training, 2.15.0 here",
        "the same bits cannot be expected with another torch; the metrics can",
    ]
