"""Sources whose images are decoded already: MedMNIST files, torchvision's readers, rendered surfaces, user's code."""

from __future__ import annotations

import importlib
import inspect
import traceback
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.data.dataset import QUARANTINE_COLUMNS
from labline.data.listing import SPLIT_NAMES, Listing, check_options, source_path
from labline.declaration import expand
from labline.errors import BadInput, nearest
from labline.usecase import Data


def list_medmnist(settings: Data) -> Listing:
    """`medmnist-npz`: a file with the keys {train,val,test}_{images,labels}.

    Options: `labels`, the class names in the order of their numbers (default: data.labels, else the numbers);
    `flag` (such as "pneumoniamnist") and `size` (28), which the medmnist package downloads where no file is given.
    """
    check_options(settings, ["flag", "size", "labels"])
    path = _medmnist_file(settings)
    parts = []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in ("train", "val", "test"):
                parts.append((SPLIT_NAMES[name], arrays[f"{name}_images"], arrays[f"{name}_labels"]))
    except KeyError as error:
        raise BadInput(f"data.path: {path} lacks {error}; expected {{train,val,test}}_{{images,labels}}") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"data.path: {path} cannot be read as .npz: {error}") from error
    return _in_parts(parts, settings.options.get("labels") or settings.labels, str(path))


def list_torchvision(settings: Data) -> Listing:
    """`torchvision`: a data set that `torchvision.datasets` reads into memory, from the folder `data.path`.

    Options: `dataset`, its class name (such as "CIFAR10"); `download`, whether it may be fetched (false).
    """
    from torchvision import datasets

    check_options(settings, ["dataset", "download"])
    name = settings.options.get("dataset", "")
    if name not in datasets.__all__:
        raise BadInput(
            f"data.options.dataset = {name!r} is not in torchvision.datasets; {nearest(name, datasets.__all__)}"
        )
    if settings.path is None:
        raise BadInput(f"data.source = 'torchvision' needs data.path: the folder that holds {name}, or shall hold it")
    root = expand(settings.path, "data.path")
    reader = getattr(datasets, name)
    parts = []
    class_names: Sequence[str] | None = settings.labels
    for split, arguments in _torchvision_splits(reader).items():
        read = _read_torchvision(reader, root, settings, arguments)
        if read is not None:
            images, numbers, named = read
            parts.append((split, images, numbers))
            class_names = class_names or named
    if not parts:
        raise BadInput(f"torchvision's {name} has none of the splits train, validation, test; use another source")
    return _in_parts(parts, class_names, f"torchvision {name}")


def list_surfaces(settings: Data) -> Listing:
    """`surfaces`: rendered steel surfaces (see `labline.data.surfaces`), a function of the options and split.seed."""
    from labline.data import surfaces

    rendered = surfaces.load(settings.options, settings.image_size, settings.split.seed)
    return _listing(rendered.images, rendered.labels, [""] * len(rendered.labels), rendered.sample_ids, "surfaces")


def list_module(settings: Data) -> Listing:
    """`module:function`: the user's own code, called with the [data] section.

    It returns (images, labels) or (images, labels, splits): images uint8 NHW or NHWC with 1 or 3 channels;
    N labels, names or numbers (of data.labels where that is declared); N names of splits, "" where to be drawn.
    Raises BadInput for whatever is otherwise.
    """
    where = f"data.source = {settings.source!r}"
    function = _own_function(settings.source, where)
    try:
        returned = function(settings)
    except Exception as error:
        raise BadInput(f"{where} failed: {type(error).__name__}: {error}{_line(error)}") from error
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        raise BadInput(
            f"{where} returned {type(returned).__name__}; expected (images, labels) or (images, labels, splits)"
        )
    images, labels = _images(returned[0], where), list(returned[1])
    splits = [str(split).lower() for split in returned[2]] if len(returned) == 3 else [""] * len(labels)
    for split in set(splits).difference([*SPLIT_NAMES, ""]):
        raise BadInput(f"{where} returned the split {split!r}; {nearest(split, SPLIT_NAMES)}")
    for what, column in (("labels", labels), ("splits", splits)):
        if len(column) != len(images):
            raise BadInput(f"{where} returned {len(images)} images but {len(column)} {what}; expected one for each")
    if any(isinstance(label, str) for label in labels) or not labels:
        names = [str(label) for label in labels]
    else:
        names = _names(_class_numbers(np.asarray(labels), where), settings.labels, where)
    digits = len(str(len(names)))
    sample_ids = [f"{number:0{digits}d}" for number in range(len(names))]
    return _listing(images, names, [SPLIT_NAMES.get(split, "") for split in splits], sample_ids, settings.source)


# --- arrays into listings ----------------------------------------------------------------------------------------


def _in_parts(parts: Sequence[tuple[str, Any, Any]], class_names: Sequence[str] | None, source: str) -> Listing:
    """A listing of (split, images, class numbers) parts; sample ids are like train/00012."""
    images, labels, splits, sample_ids = [], [], [], []
    for split, part, numbers in parts:
        checked = _images(part, f"{source}, {split or 'all'}")
        found = _class_numbers(np.asarray(numbers), f"{source}, {split or 'all'}")
        if len(checked) != len(found):
            raise BadInput(f"{source}: {len(checked)} {split} images, but {len(found)} labels; expected one for each")
        images.append(checked)
        labels += _names(found, class_names, source)
        splits += [split] * len(checked)
        sample_ids += [f"{split or 'all'}/{number:05d}" for number in range(len(checked))]
    order = tuple(class_names) if class_names else None
    return _listing(np.concatenate(images), labels, splits, sample_ids, source, order)


def _listing(
    images: npt.NDArray[np.uint8],
    labels: Sequence[str],
    splits: Sequence[str],
    sample_ids: Sequence[str],
    source: str,
    order: tuple[str, ...] | None = None,
) -> Listing:
    columns = {"sample_id": sample_ids, "split": splits, "label": labels}
    samples = pd.DataFrame(columns, dtype=object).assign(source=source)
    # Numbers in the order of numbers, names in the order of the alphabet.
    found = sorted(set(labels), key=lambda name: (int(name), "") if name.isdecimal() else (0, name))
    return Listing(samples, images, order or tuple(found), pd.DataFrame(columns=list(QUARANTINE_COLUMNS), dtype=object))


def _images(array: Any, where: str) -> npt.NDArray[np.uint8]:
    """The array, if it is uint8 NHW or NHWC with 1 or 3 channels."""
    try:
        images = np.asarray(array)
    except Exception as error:
        raise BadInput(f"{where}: the images are no array ({error}); expected uint8, N x H x W x 1 or 3") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        shape = " x ".join(map(str, images.shape))
        raise BadInput(
            f"{where}: the images are {images.dtype}, {shape}; expected uint8, N x H x W or N x H x W x 1 or 3"
        )
    return images


def _class_numbers(labels: npt.NDArray[Any], where: str) -> npt.NDArray[np.int64]:
    """N whole numbers out of N or N x 1 of them."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        shape = " x ".join(map(str, labels.shape))
        raise BadInput(
            f"{where}: the labels are {labels.dtype}, {shape}; expected one class number, 0 or more, a sample"
        )
    return labels.astype(np.int64)


def _names(numbers: npt.NDArray[np.int64], class_names: Sequence[str] | None, where: str) -> list[str]:
    if class_names is None:
        return [str(number) for number in numbers]
    if numbers.max(initial=0) >= len(class_names):
        raise BadInput(
            f"{where}: there is a class {numbers.max()}, but only {len(class_names)} class names are declared"
        )
    return [class_names[number] for number in numbers]


# --- readers -----------------------------------------------------------------------------------------------------


def _medmnist_file(settings: Data) -> Path:
    """The declared file, or the one that the medmnist package keeps or downloads."""
    expected = "a MedMNIST .npz; or data.options.flag, for the medmnist package to download it"
    path = None if settings.path is None else expand(settings.path, "data.path")
    if (path is not None and path.exists()) or "flag" not in settings.options:
        return source_path(settings, expected)
    try:
        import medmnist
    except ImportError:
        place = "" if path is None else f"there is nothing at {path}, and "
        raise BadInput(f"data.path: {place}the package medmnist is not installed: pip install medmnist") from None
    flag, size = settings.options["flag"], settings.options.get("size", 28)
    if flag not in medmnist.INFO:
        raise BadInput(f"data.options.flag: medmnist has no {flag!r}; {nearest(str(flag), medmnist.INFO)}")
    folder = Path.home() / ".medmnist"
    folder.mkdir(exist_ok=True)
    try:
        getattr(medmnist, medmnist.INFO[flag]["python_class"])("train", download=True, root=str(folder), size=size)
    except (RuntimeError, AssertionError, OSError) as error:
        raise BadInput(f"data.options.flag: medmnist could not download {flag} at size {size}: {error}") from error
    return folder / (f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz")


def _torchvision_splits(reader: Any) -> dict[str, dict[str, Any]]:
    """The arguments that choose each of a torchvision data set's own splits."""
    parameters = inspect.signature(reader).parameters
    if "train" in parameters:
        return {"train": {"train": True}, "test": {"train": False}}
    if "split" in parameters:
        return {SPLIT_NAMES[name]: {"split": name} for name in ("train", "val", "test")}
    return {"": {}}


def _read_torchvision(
    reader: Any, root: Path, settings: Data, arguments: dict[str, Any]
) -> tuple[npt.NDArray[Any], Any, Sequence[str] | None] | None:
    """Images, class numbers and class names of one split; None where the data set does not have this split."""
    if "download" in inspect.signature(reader).parameters:
        arguments = arguments | {"download": bool(settings.options.get("download", False))}
    name = reader.__name__
    try:
        dataset = reader(root=str(root), **arguments)
    except ValueError:
        return None
    except (RuntimeError, OSError, TypeError) as error:
        hint = "set data.options.download = true, or point data.path at the folder that holds it"
        raise BadInput(f"torchvision could not read {name} in {root}: {error}; {hint}") from error
    images, numbers = getattr(dataset, "data", None), getattr(dataset, "targets", getattr(dataset, "labels", None))
    if images is None or numbers is None:
        raise BadInput(
            f'torchvision\'s {name} keeps its images as files: use source = "image-folder" or "csv" on {root}'
        )
    images = np.asarray(images)
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)  # SVHN and STL10 are NCHW
    return images, numbers, getattr(dataset, "classes", None)


def _own_function(source: str, where: str) -> Any:
    module_name, _, function_name = source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        hint = "it must lie in the current folder, beside the declaration, or on PYTHONPATH"
        raise BadInput(f"{where}: module {module_name!r} cannot be imported ({error}); {hint}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        hint = nearest(function_name, functions) if functions else f"{module_name} defines no function"
        raise BadInput(f"{where}: {module_name} has no function {function_name!r}; {hint}")
    return function


def _line(error: Exception) -> str:
    """Where in the user's code the error was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({frame.filename}, line {frame.lineno})"
