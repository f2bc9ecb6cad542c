"""Sources of encoded images: class folders, plain or in a .zip, and CSV files that list paths."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from labline.data.decoding import SUFFIXES
from labline.data.listing import SPLIT_NAMES, Listing, check_options, refuse, source_path
from labline.errors import BadInput, nearest
from labline.usecase import Data

LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")  # left behind by file managers
ENCRYPTED = 0x1  # bit 0 of a member's flags (PKWARE APPNOTE 4.4.4)


def list_image_folder(settings: Data) -> Listing:
    """`image-folder`: a folder or .zip of class folders, or of train, validation and test folders of these.

    Folders that wrap all others are looked through; hidden files are ignored, as are files other than images
    outside the class folders. A sample's id is its path below the class or split folders' parent.
    """
    check_options(settings, [])
    path = source_path(settings, "a folder or .zip with one folder of images for each class")
    found = _members(path)
    outside = [name for name in found if name.startswith("/") or ".." in name.split("/")]
    names = sorted(set(found).difference(outside))
    names = [name for name in names if not any(part.startswith(".") or part in LITTER for part in name.split("/"))]
    root = _dataset_root(names)
    inside = [name.removeprefix(root) for name in names if name.startswith(root)]
    has_splits = _has_splits(inside)
    places = [_place(name, has_splits) for name in inside]
    files = pd.DataFrame(places, columns=["sample_id", "split", "label"], dtype=object).assign(source=str(path))
    labels = tuple(sorted(set(files["label"]) - {""}))
    files = files[~files["sample_id"].str.endswith("/")]
    is_image = files["sample_id"].map(_suffix).isin(SUFFIXES)
    in_class = files["label"] != ""
    samples = files[in_class & is_image].reset_index(drop=True)
    foreign = files[in_class & ~is_image]
    leading_out = pd.DataFrame({"sample_id": outside}, dtype=object).assign(split="", label="", source=str(path))
    quarantined = [
        refuse(files[~in_class & is_image], "no-class-folder", "", "it lies outside the class folders"),
        refuse(foreign, "not-an-image-file", foreign["sample_id"].map(_suffix), "its name is not an image's"),
        refuse(leading_out, "unsafe-name", leading_out["sample_id"], "its name leads out of the archive"),
    ]
    samples = samples.assign(file=root + samples["sample_id"])
    return Listing(samples, path, labels, pd.concat(quarantined, ignore_index=True))


def list_csv(settings: Data) -> Listing:
    """`csv`: columns path (relative to the CSV), label and, if wanted, split; one row a sample, UTF-8.

    Refused, row by row: an empty path or label, a path listed before. Raises BadInput, naming file and row, for
    what is no CSV, columns that are missing and splits that are unknown.
    """
    check_options(settings, [])
    path = source_path(settings, "a CSV file with the columns path, label and, if wanted, split")
    table = _read_csv(path)
    row = pd.Series(table.index + 2, index=table.index).astype(str)  # as an editor counts: the header is row 1
    samples = pd.DataFrame(
        {
            "sample_id": table["path"].str.strip(),
            "split": _known_splits(table.get("split", pd.Series("", index=table.index)), path),
            "label": table["label"].str.strip(),
            "source": str(path),
            "file": table["path"].str.strip(),
        }
    )
    no_path, no_label = samples["file"] == "", samples["label"] == ""
    again = samples["file"].duplicated() & ~no_path
    quarantined = [
        refuse(samples[no_path], "missing-path", "row " + row[no_path], "its row has no path"),
        refuse(samples[no_label & ~no_path], "missing-label", "row " + row[no_label], "its row has no label"),
        refuse(samples[again & ~no_label], "listed-twice", "row " + row[again], "an earlier row has its path"),
    ]
    samples = samples[~(no_path | no_label | again)].reset_index(drop=True)
    return Listing(samples, path.parent, tuple(sorted(set(samples["label"]))), pd.concat(quarantined))


def _members(path: Path) -> list[str]:
    """Names of all files, and of all folders with a slash at the end, relative to `path`."""
    if path.is_dir():
        names = []
        for folder, folders, files in os.walk(path, followlinks=True):
            relative = Path(folder).relative_to(path)
            names += [(relative / name).as_posix() for name in files]
            names += [(relative / name).as_posix() + "/" for name in folders]
        return names
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.flag_bits & ENCRYPTED for member in archive.infolist()):
                raise BadInput(f"data.path: {path} is encrypted; unpack it, or store it without a password")
            return archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInput(f"data.path: {path} cannot be opened as a .zip ({error}); expected a folder or .zip") from error


def _dataset_root(names: Sequence[str], root: str = "") -> str:
    """The folder with the class or split folders; archives often wrap it in others that mean nothing."""
    inside = [name.removeprefix(root).split("/") for name in names if name.startswith(root)]
    folders = {parts[0] for parts in inside if len(parts) > 1}
    has_images = any(len(parts) == 1 and _suffix(parts[0]) in SUFFIXES for parts in inside)
    has_grandchildren = any(len(parts) > 2 for parts in inside)
    wraps = len(folders) == 1 and has_grandchildren and not has_images
    folder = next(iter(folders), "")
    if not wraps or folder.lower() in SPLIT_NAMES:
        return root
    return _dataset_root(names, f"{root}{folder}/")


def _has_splits(inside: Sequence[str]) -> bool:
    folders = {name.partition("/")[0].lower() for name in inside if "/" in name}
    return bool(folders) and folders <= SPLIT_NAMES.keys()


def _place(name: str, has_splits: bool) -> tuple[str, str, str]:
    """Sample id, split and label ("" outside the class folders) of a file or folder."""
    folders = name.split("/")[:-1]
    split = SPLIT_NAMES[folders.pop(0).lower()] if has_splits and folders else ""
    return name, split, folders[0] if folders else ""


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _read_csv(path: Path) -> pd.DataFrame:
    """All columns as text, rows without any text left out, the index counting the rows below the header."""
    encoded = path.read_bytes() if path.is_file() else b""
    try:
        text = encoded.decode("utf-8-sig")
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False)
    except UnicodeDecodeError as error:
        row = encoded.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}, row {row}: it is not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise BadInput(f"{path} cannot be read as CSV: {error}") from None
    for column in ("path", "label"):
        if column not in table.columns:
            hint = nearest(column, map(str, table.columns))
            raise BadInput(f"{path}, row 1: the column {column!r} is missing; {hint} (path, label and split are read)")
    return table[(table.fillna("") != "").any(axis=1)].fillna("")


def _known_splits(named: pd.Series[str], path: Path) -> pd.Series[str]:
    splits = named.str.strip().str.lower()
    unknown = splits[~splits.isin([*SPLIT_NAMES, ""])]
    if not unknown.empty:
        row, name = int(unknown.index[0]) + 2, unknown.iloc[0]
        raise BadInput(f"{path}, row {row}: the split {name!r} is not known; {nearest(name, SPLIT_NAMES)}")
    return splits.map(SPLIT_NAMES).fillna("")
