"""Stages of one machine on another, over a real S3-compatible server; and what is said where it refuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from free_ports import free_port
from object_storage import SECRET, Server
from object_storage import object_storage as object_storage  # the fixture

from labline.errors import BadInput, LablineError
from tasks.environment import load_environment, object_storage_url, storage_root
from tasks.object_storage import ObjectStorage, opened, probe
from tasks.publication import find
from tasks.sharing import (
    adopt,
    bring_checkpoint,
    description,
    drop_checkpoint,
    evidence,
    is_here,
    keep_checkpoint,
    names_of_datasets,
    present,
    remove,
    share,
)

NAME = "stages/double/0123456789abcdef0123"
Machine = Callable[[str], Path]


@pytest.fixture
def url(object_storage: Server) -> str:
    return object_storage.new_store()


@pytest.fixture
def machine(object_storage: Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this process one of several machines, each with a cache of its own; returns its storage root."""

    def become(name: str) -> Path:
        for variable in list(os.environ):
            if variable.startswith(("MLFLOW_", "PREFECT_", "LABLINE_", "AWS_")):
                monkeypatch.delenv(variable)
        for variable, value in object_storage.environment.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("LABLINE_STORE", url)
        monkeypatch.setenv("LABLINE_CACHE", str(tmp_path / name))
        return load_environment()

    return become


def finish(name: str = NAME, content: str = "42") -> Path:
    """A stage that ended on this machine."""
    folder = storage_root() / name
    (folder / "evidence" / "files").mkdir(parents=True)
    (folder / "evidence" / "metrics.json").write_text("{}")
    (folder / "result.txt").write_text(content)
    return folder


def test_a_stage_is_on_the_other_machine_when_it_is_asked_for(machine: Machine) -> None:
    machine("a")
    finish()
    assert share(NAME, lambda: "forty-two")
    assert not share(NAME, lambda: "again")

    machine("b")
    published = adopt(NAME)
    assert published is not None
    assert published.result == "forty-two"
    assert not is_here(NAME)
    assert (present(NAME) / "result.txt").read_text() == "42"
    assert (present(NAME) / "evidence" / "files").is_dir()
    assert is_here(NAME)


def test_evidence_is_fetched_without_the_rest(machine: Machine) -> None:
    machine("a")
    finish()
    share(NAME, lambda: "")
    machine("b")
    folder = evidence(NAME)
    assert (folder / "evidence" / "metrics.json").read_text() == "{}"
    assert (folder / "evidence" / "files").is_dir()
    assert not (folder / "result.txt").exists()
    assert not is_here(NAME)


def test_a_dataset_brings_the_one_whose_images_it_points_at(machine: Machine) -> None:
    machine("a")
    finish("stages/ingest/1111", "pixels")
    (finish("stages/clean/2222") / "dataset.json").write_text('{"labels": ["a/b"], "images": "../../ingest/1111/x"}')
    for name in ("stages/ingest/1111", "stages/clean/2222"):
        share(name, lambda: "")
    root = machine("b")
    present("stages/clean/2222")
    assert (root / "stages/ingest/1111/result.txt").read_text() == "pixels"


def test_a_dataset_is_described_without_its_images_and_removed_everywhere(
    machine: Machine, url: str, object_storage: Server
) -> None:
    machine("a")
    folder = finish()
    for name, content in (("dataset.json", "{}"), ("manifest.parquet", "rows"), ("images.npy", "pixels")):
        (folder / name).write_text(content)
    share(NAME, lambda: "")
    machine("b")
    assert names_of_datasets() == [NAME]
    assert sorted(path.name for path in description(NAME).iterdir()) == [
        "complete.json", "dataset.json", "evidence", "manifest.parquet",
    ]  # fmt: skip
    remove(NAME)
    assert names_of_datasets() == []
    assert object_storage.names(url) == []


def test_many_who_ask_at_once_get_one_whole_folder(machine: Machine) -> None:
    machine("a")
    folder = finish()
    for number in range(20):
        (folder / f"{number}.bin").write_bytes(os.urandom(50_000))
    share(NAME, lambda: "")
    machine("b")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: present(NAME), range(8)))
    (brought,) = found
    assert all((brought / f"{n}.bin").read_bytes() == (folder / f"{n}.bin").read_bytes() for n in range(20))


def test_a_refusal_in_the_middle_leaves_nothing_half_and_the_next_try_goes_on(
    machine: Machine, object_storage: Server, url: str
) -> None:
    machine("a")
    finish()
    with object_storage.refusing(), pytest.raises(BadInput, match="credentials") as refused:
        share(NAME, lambda: "")
    assert url in str(refused.value) and "LABLINE_STORE" in str(refused.value)
    assert SECRET not in str(refused.value)
    assert adopt(NAME) is None
    assert share(NAME, lambda: "")
    machine("b")
    assert (present(NAME) / "result.txt").read_text() == "42"


def test_files_without_their_marker_are_not_taken_for_a_stage(machine: Machine, object_storage: Server) -> None:
    machine("a")
    finish()
    share(NAME, lambda: "")
    storage = opened()
    assert storage is not None
    storage.delete([f"{NAME}/complete.json"])
    machine("b")
    assert adopt(NAME) is None
    with pytest.raises(LablineError, match="run again, and it is made anew"):
        present(NAME)


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_what_is_damaged_is_refused_and_made_anew(
    machine: Machine, url: str, object_storage: Server, harm: str
) -> None:
    machine("a")
    finish()
    share(NAME, lambda: "")
    (name,) = [name for name in object_storage.names(url) if name.endswith("result.txt")]
    storage = opened()
    assert storage is not None
    if harm == "changed":
        storage.write(name, b"43")
    else:
        storage.delete([name])
    machine("b")
    with pytest.raises(LablineError, match="run again, and it is made anew"):
        present(NAME)
    assert not is_here(NAME)
    assert adopt(NAME) is None


def test_what_is_published_again_replaces_the_first(machine: Machine, url: str, object_storage: Server) -> None:
    machine("a")
    finish(content="first")
    share(NAME, lambda: "")
    machine("b")
    finish(content="second")
    share(NAME, lambda: "")
    machine("c")
    assert (present(NAME) / "result.txt").read_text() == "second"
    assert len([name for name in object_storage.names(url) if name.endswith("result.txt")]) == 1


def test_what_left_the_cache_is_fetched_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.local_cache import make_room, stop_using, use

    root = machine("a")
    finish()
    share(NAME, lambda: "")
    monkeypatch.setenv("LABLINE_CACHE_BYTES", "0")
    assert make_room(root) == [NAME]
    assert not (root / NAME).exists()
    assert (present(NAME) / "result.txt").read_text() == "42"
    use(root, NAME)
    assert make_room(root) == []
    stop_using(root, NAME)


def test_a_checkpoint_goes_to_the_machine_that_goes_on(machine: Machine, url: str, object_storage: Server) -> None:
    partial = machine("a") / f"{NAME}.partial"
    (partial / "evidence").mkdir(parents=True)
    (partial / "checkpoint.pt").write_text("epoch 1")
    keep_checkpoint(NAME, partial)
    (partial / "checkpoint.pt").write_text("epoch 2")
    keep_checkpoint(NAME, partial)

    other = machine("b") / f"{NAME}.partial"
    other.mkdir(parents=True)
    bring_checkpoint(NAME, other)
    assert (other / "checkpoint.pt").read_text() == "epoch 2"
    (other / "checkpoint.pt").write_text("epoch 3, not kept yet")
    bring_checkpoint(NAME, other)
    assert (other / "checkpoint.pt").read_text() == "epoch 3, not kept yet"
    drop_checkpoint(NAME)
    assert object_storage.names(url) == []


def test_a_checkpoint_that_cannot_be_kept_stops_nobody(machine: Machine, object_storage: Server) -> None:
    partial = machine("a") / f"{NAME}.partial"
    partial.mkdir(parents=True)
    (partial / "checkpoint.pt").write_text("epoch 1")
    with object_storage.refusing():
        assert keep_checkpoint(NAME, partial) > 0
    storage = opened()
    assert storage is not None
    assert find(storage, NAME.replace("stages", "checkpoints")) is None


def test_a_local_storage_root_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABLINE_STORE", str(tmp_path))
    load_environment()
    folder = finish()
    assert not share(NAME, lambda: "")
    assert adopt(NAME) is None
    assert present(NAME) == evidence(NAME) == folder
    assert [path.name for path in tmp_path.iterdir()] == ["stages"]


def test_who_sets_another_store_means_that_one(machine: Machine, url: str, tmp_path: Path) -> None:
    machine("a")
    assert object_storage_url() == url
    assert load_environment() == storage_root()  # a child process, which finds the cache in LABLINE_STORE
    assert object_storage_url() == url
    os.environ["LABLINE_STORE"] = str(tmp_path / "local")
    assert load_environment() == tmp_path / "local"
    assert object_storage_url() == ""


def assert_told(url: str, *words: str) -> None:
    """One sentence: which variable, which address, what is wrong, what to do; and no secret."""
    with pytest.raises(BadInput) as refused:
        probe(ObjectStorage(url))
    for word in ("LABLINE_STORE is ", url, *words):
        assert word in str(refused.value)
    assert SECRET not in str(refused.value)


def test_wrong_credentials(machine: Machine, object_storage: Server, url: str) -> None:
    machine("a")
    with object_storage.refusing():
        assert_told(url, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID")


def test_credentials_that_may_only_read(
    machine: Machine, object_storage: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("a")
    for name, value in object_storage.reader().items():
        monkeypatch.setenv(name, value)
    with object_storage.refusing():
        assert_told(url, "writing probes/", "refuses access (AccessDenied)", "s3:PutObject")


def test_no_credentials(machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine("a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert_told(url, "there are no credentials", "set AWS_ACCESS_KEY_ID")


def test_no_such_bucket(machine: Machine, object_storage: Server) -> None:
    machine("a")
    assert_told("s3://no-such-bucket/labline", f"no bucket no-such-bucket at {object_storage.address}", "make it")


def test_an_endpoint_that_is_away(machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("a")
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    assert_told(url, f"{address} does not answer", "AWS_ENDPOINT_URL")


def test_without_the_packages_for_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(BadInput, match=r"pip install 'labline\[s3\]'"):
        machine("a")


@pytest.mark.parametrize("address", ["s3://", "s3://Bucket/x", "s3://key:secret@bucket/x", "s3://bucket?versionId=1"])
def test_addresses_that_are_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("LABLINE_STORE", address)
    with pytest.raises(BadInput, match="s3://bucket/prefix was expected") as refused:
        load_environment()
    assert "secret" not in str(refused.value)


def test_mlflow_and_botocore_are_told(machine: Machine, url: str, object_storage: Server) -> None:
    root = machine("a")
    assert os.environ["LABLINE_MLFLOW_ARTIFACTS"] == f"{url}/mlflow/artifacts"
    assert os.environ["MLFLOW_S3_ENDPOINT_URL"] == object_storage.address
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{root}/mlflow/mlflow.db"
    assert os.environ["AWS_RETRY_MODE"] == "standard"
