from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labline.data.sources import list_source
from labline.errors import BadInput
from labline.usecase import Data


def settings_for(source: str, path: Path | None = None, **keys: Any) -> Data:
    return Data(source=source, path=None if path is None else str(path), image_size=16, **keys)


def as_zip(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"listed, not decoded")
    return path


def as_folder(path: Path, names: list[str]) -> Path:
    for name in names:
        target = path / name
        if name.endswith("/"):
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"listed, not decoded")
    return path


def test_an_unknown_source_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="'image-folders' is not a source labline knows; did you mean 'image-folder'"):
        list_source(settings_for("image-folders"))


# --- image-folder ------------------------------------------------------------------------------------------------

CLASS_FOLDERS = ["cat/1.jpg", "cat/2.PNG", "dog/litter/3.jpeg"]


@pytest.mark.parametrize("store", [as_zip, as_folder])
@pytest.mark.parametrize("wrapper", ["", "pets/", "download/pets-v2/"])
def test_class_folders_are_found_wherever_they_are_wrapped(store: Any, wrapper: str, tmp_path: Path) -> None:
    clutter = ["__MACOSX/cat/._1.jpg", ".git/1.jpg", f"{wrapper}cat/Thumbs.db", f"{wrapper}README.txt"]
    path = store(tmp_path / "pets.zip", [wrapper + name for name in CLASS_FOLDERS] + clutter)
    listing = list_source(settings_for("image-folder", path))
    assert list(listing.samples["sample_id"]) == CLASS_FOLDERS
    assert list(listing.samples["file"]) == [wrapper + name for name in CLASS_FOLDERS]
    assert list(listing.samples["label"]) == ["cat", "cat", "dog"]
    assert set(listing.samples["split"]) == {""} and listing.quarantined.empty


@pytest.mark.parametrize("store", [as_zip, as_folder])
@pytest.mark.parametrize("wrapper", ["", "pets/"])
def test_folders_named_after_splits_are_the_official_splits(store: Any, wrapper: str, tmp_path: Path) -> None:
    names = ["Train/cat/1.jpg", "Train/dog/1.jpg", "test/dog/3.jpg", "val/cat/2.jpg"]
    listing = list_source(
        settings_for("image-folder", store(tmp_path / "pets.zip", [wrapper + name for name in names]))
    )
    assert list(listing.samples["sample_id"]) == names
    assert list(listing.samples["split"]) == ["train", "train", "test", "validation"]
    assert listing.labels == ("cat", "dog")


@pytest.mark.parametrize("store", [as_zip, as_folder])
def test_what_does_not_belong_is_quarantined_with_its_reason(store: Any, tmp_path: Path) -> None:
    path = store(tmp_path / "pets.zip", [*CLASS_FOLDERS, "stray.jpg", "cat/setup.exe", "dog/notes.txt", "bird/"])
    listing = list_source(settings_for("image-folder", path))
    refused = dict(zip(listing.quarantined["sample_id"], listing.quarantined["expectation"], strict=True))
    assert refused == {
        "stray.jpg": "no-class-folder",
        "cat/setup.exe": "not-an-image-file",
        "dog/notes.txt": "not-an-image-file",
    }
    assert listing.labels == ("bird", "cat", "dog")  # with the empty folder's: ingest reports it


def test_names_that_lead_out_of_the_archive_are_refused(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "pets.zip", [*CLASS_FOLDERS, "../../cat/evil.jpg", "/etc/cat/evil.jpg"])
    listing = list_source(settings_for("image-folder", path))
    assert list(listing.samples["sample_id"]) == CLASS_FOLDERS
    assert list(listing.quarantined["expectation"]) == ["unsafe-name"] * 2


def test_samples_of_undeclared_classes_are_refused_with_the_nearest_name(tmp_path: Path) -> None:
    path = as_folder(tmp_path, [*CLASS_FOLDERS, "dgo/4.jpg"])
    listing = list_source(settings_for("image-folder", path, labels=["dog", "cat"]))
    assert listing.labels == ("dog", "cat") and len(listing.samples) == 3
    (refused,) = listing.quarantined.to_dict("records")
    assert refused["expectation"] == "unknown-label" and "did you mean 'dog'?" in refused["reason"]


def test_a_path_that_leads_nowhere_says_what_was_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET_FOLDER", raising=False)
    with pytest.raises(BadInput, match="needs data.path"):
        list_source(settings_for("image-folder"))
    with pytest.raises(BadInput, match=r"nothing at .*missing.zip"):
        list_source(settings_for("image-folder", tmp_path / "missing.zip"))
    with pytest.raises(BadInput, match="UNSET_FOLDER is not set"):
        list_source(settings_for("image-folder", Path("${UNSET_FOLDER}/x.zip")))


def test_an_archive_that_cannot_be_opened_is_bad_input(tmp_path: Path) -> None:
    whole = as_zip(tmp_path / "whole.zip", CLASS_FOLDERS).read_bytes()
    broken = tmp_path / "broken.zip"
    broken.write_bytes(whole[:-30])
    with pytest.raises(BadInput, match=r"broken.zip cannot be opened as a .zip"):
        list_source(settings_for("image-folder", broken))


# --- csv ---------------------------------------------------------------------------------------------------------


def write_csv(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_csv_rows_are_samples_relative_to_the_file(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "path,label,split\na/1.jpg,cat,train\na/2.jpg,dog,val\na/3.jpg,dog,\n", "utf-8-sig")
    listing = list_source(settings_for("csv", path))
    assert listing.content == tmp_path
    assert list(listing.samples["sample_id"]) == ["a/1.jpg", "a/2.jpg", "a/3.jpg"]
    assert list(listing.samples["split"]) == ["train", "validation", ""]


def test_csv_rows_that_cannot_be_used_are_quarantined(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "path,label\n1.jpg,cat\n\n2.jpg,\n,dog\n1.jpg,dog\n3.jpg,catt\n4.jpg,dog\n")
    listing = list_source(settings_for("csv", path, labels=["cat", "dog"]))
    assert list(listing.samples["sample_id"]) == ["1.jpg", "4.jpg"]
    refused = {row["expectation"]: row for row in listing.quarantined.to_dict("records")}
    assert refused["missing-label"]["value"] == "row 4"
    assert refused["missing-path"]["value"] == "row 5"
    assert refused["listed-twice"]["value"] == "row 6"
    assert refused["unknown-label"]["value"] == "catt" and "did you mean 'cat'?" in refused["unknown-label"]["reason"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lable\n1.jpg,cat\n", r"labels.csv, row 1: the column 'label' is missing; did you mean 'lable'"),
        ("path;label\n1.jpg;cat\n", r"labels.csv, row 1: the column 'path' is missing"),
        (
            "path,label,split\n1.jpg,cat,train\n2.jpg,cat,tset\n",
            r"row 3: the split 'tset' is not known; did you mean 'test'",
        ),
        ("path,label\n1.jpg,cat,x,y\n2.jpg,cat\n3.jpg,a,b,c,d,e\n", r"labels.csv cannot be read as CSV"),
        ("", r"labels.csv cannot be read as CSV"),
    ],
)
def test_a_csv_of_another_form_is_bad_input(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        list_source(settings_for("csv", write_csv(tmp_path, text)))


def test_a_csv_in_another_encoding_names_the_row(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "path,label\n1.jpg,cat\n2.jpg,kätzchen\n", "latin-1")
    with pytest.raises(BadInput, match=r"labels.csv, row 3: it is not UTF-8"):
        list_source(settings_for("csv", path))


# --- arrays ------------------------------------------------------------------------------------------------------


def write_npz(path: Path, **replaced: Any) -> Path:
    arrays: dict[str, Any] = {}
    for part, size in (("train", 6), ("val", 2), ("test", 2)):
        arrays[f"{part}_images"] = np.zeros((size, 28, 28), np.uint8)
        arrays[f"{part}_labels"] = np.arange(size, dtype=np.uint8)[:, None] % 2
    arrays |= replaced
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_medmnist_files_bring_their_splits(tmp_path: Path) -> None:
    listing = list_source(settings_for("medmnist-npz", write_npz(tmp_path / "x.npz"), labels=["normal", "pneumonia"]))
    assert listing.labels == ("normal", "pneumonia")
    assert list(listing.samples["split"]) == ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
    assert listing.samples["sample_id"].iloc[6] == "validation/00000"
    assert isinstance(listing.content, np.ndarray) and listing.content.shape == (10, 28, 28)


def test_classes_without_names_are_numbers_in_the_order_of_numbers(tmp_path: Path) -> None:
    labels = np.arange(12)
    path = write_npz(tmp_path / "x.npz", train_images=np.zeros((12, 28, 28), np.uint8), train_labels=labels)
    assert list_source(settings_for("medmnist-npz", path)).labels == tuple(map(str, range(12)))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"val_images": None}, "lacks .*val_images"),
        ({"train_labels": np.zeros((6, 14), np.uint8)}, "the labels are uint8, 6 x 14"),
        ({"train_labels": np.full(6, 7)}, "there is a class 7, but only 2 class names"),
        ({"train_labels": np.zeros(5, np.uint8)}, "6 train images, but 5 labels"),
        ({"train_images": np.zeros((6, 28, 28, 28), np.uint8)}, "the images are uint8, 6 x 28 x 28 x 28"),
        ({"train_images": np.zeros((6, 28, 28))}, "the images are float64"),
    ],
)
def test_an_npz_of_another_form_is_bad_input(replaced: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        list_source(
            settings_for("medmnist-npz", write_npz(tmp_path / "x.npz", **replaced), options={"labels": ["a", "b"]})
        )


def test_what_is_no_npz_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_text("a text")
    with pytest.raises(BadInput, match=r"cannot be read as .npz"):
        list_source(settings_for("medmnist-npz", path))


def test_surfaces_are_rendered_from_the_options() -> None:
    listing = list_source(settings_for("surfaces", options={"samples": 40}))
    assert isinstance(listing.content, np.ndarray) and len(listing.content) == len(listing.samples) == 40


def test_an_option_that_the_source_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"data.options.flagg is no option .* did you mean 'flag'"):
        list_source(settings_for("medmnist-npz", write_npz(tmp_path / "x.npz"), options={"flagg": "pathmnist"}))
    with pytest.raises(BadInput, match=r"data.options.recursive is no option"):
        list_source(settings_for("image-folder", tmp_path, options={"recursive": True}))


# --- module:function ---------------------------------------------------------------------------------------------


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a module with a body for `load(settings)` and gives its declaration."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(body: str) -> Data:
        name = f"own_{abs(hash(body))}"
        (tmp_path / f"{name}.py").write_text(f"import numpy as np\n\ndef load(settings):\n    {body}\n")
        return settings_for(f"{name}:load")

    return write


def test_a_users_own_function_is_a_source(own_module: Any) -> None:
    body = (
        "return np.zeros((4, settings.image_size, 20, 3), np.uint8), ['b', 'a', 'b', 'a'], ['train', 'val', 'test', '']"
    )
    listing = list_source(own_module(body))
    assert listing.labels == ("a", "b")
    assert list(listing.samples["split"]) == ["train", "validation", "test", ""]
    assert isinstance(listing.content, np.ndarray) and listing.content.shape == (4, 16, 20, 3)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1, 2]", r"returned list; expected \(images, labels\)"),
        ("return np.zeros((2, 8, 8)), ['a', 'b']", "the images are float64, 2 x 8 x 8; expected uint8"),
        ("return np.zeros((2, 8, 8), np.uint8), ['a']", "returned 2 images but 1 labels"),
        ("return np.zeros((2, 8, 8), np.uint8), [0.5, 1.5]", "the labels are float64"),
        ("return np.zeros((2, 8, 8), np.uint8), ['a', 'b'], ['train', 'tets']", "split 'tets'; did you mean 'test'"),
        ("raise KeyError('column')", r"failed: KeyError: 'column' \(.*own_.*py, line 4\)"),
    ],
)
def test_what_a_users_function_returns_is_checked(own_module: Any, body: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        list_source(own_module(body))


def test_a_function_that_is_not_there_is_answered_with_the_nearest(own_module: Any) -> None:
    declared = own_module("return None")
    with pytest.raises(BadInput, match="has no function 'laod'; did you mean 'load'"):
        list_source(settings_for(declared.source.replace(":load", ":laod")))
    with pytest.raises(BadInput, match="module 'no_such_module' cannot be imported"):
        list_source(settings_for("no_such_module:load"))


# --- torchvision -------------------------------------------------------------------------------------------------


def test_torchvision_names_the_nearest_data_set_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'CIFAR10'"):
        list_source(settings_for("torchvision", tmp_path, options={"dataset": "CIFAR-10"}))
    with pytest.raises(BadInput, match=r"could not read CIFAR10 .*data.options.download = true"):
        list_source(settings_for("torchvision", tmp_path, options={"dataset": "CIFAR10"}))


def test_torchvision_data_sets_bring_images_classes_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    class Small:
        """Shaped as torchvision's CIFAR10."""

        classes = ("plane", "car")

        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            self.data = np.zeros((4 if train else 2, 32, 32, 3), np.uint8)
            self.targets = [0, 1] * (2 if train else 1)

    monkeypatch.setattr(datasets, "CIFAR10", Small)
    listing = list_source(settings_for("torchvision", tmp_path, options={"dataset": "CIFAR10"}))
    assert listing.labels == ("plane", "car")
    assert list(listing.samples["split"]) == ["train"] * 4 + ["test"] * 2
