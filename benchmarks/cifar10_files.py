"""The 60,000 JPEG files of CIFAR-10, for benchmarks that start from files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from labline.data.dataset import Dataset, open_dataset
from labline.data.ingest import ingest
from labline.declaration import load_image_usecase
from labline.errors import BadInput
from labline.usecase import Data


def archive() -> Path:
    """cifar10.zip in LABLINE_DATA; raises BadInput where it is not."""
    folder = os.environ.get("LABLINE_DATA")
    path = Path(folder or "") / "cifar10.zip"
    if not folder or not path.is_file():
        raise BadInput(f"cifar10.zip is not in LABLINE_DATA = {folder!r}; set it to the folder that holds the archive")
    return path


def declared_data() -> Data:
    """The [data] section of usecases/cifar10.toml; raises BadInput where the archive is not there."""
    archive()
    return load_image_usecase("cifar10", Path(__file__).parent.parent / "usecases").data


def decoded(folder: Path) -> Dataset:
    """All images, decoded into `folder`."""
    ingest(declared_data(), folder)
    return open_dataset(folder)


def part_of(dataset: Dataset, size: int) -> Dataset:
    """`size` of the images, or all where there are fewer, drawn at random, the same ones every time."""
    drawn = dataset.manifest.sample(n=min(size, len(dataset.manifest)), random_state=0)
    return replace(dataset, manifest=drawn.sort_index().reset_index(drop=True))
