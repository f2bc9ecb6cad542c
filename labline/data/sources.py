"""The sources a declaration may name, each as a listing of its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from labline.data.image_arrays import list_medmnist, list_module, list_surfaces, list_torchvision
from labline.data.image_files import list_csv, list_image_folder
from labline.data.listing import Listing
from labline.errors import BadInput, nearest
from labline.usecase import Data

SOURCES: Mapping[str, Callable[[Data], Listing]] = {
    "surfaces": list_surfaces,
    "image-folder": list_image_folder,
    "csv": list_csv,
    "medmnist-npz": list_medmnist,
    "torchvision": list_torchvision,
}


def list_source(settings: Data) -> Listing:
    """List the samples of the declared source; raises BadInput where it cannot be found, read or understood."""
    if ":" in settings.source:
        listing = list_module(settings)
    elif settings.source in SOURCES:
        listing = SOURCES[settings.source](settings)
    else:
        hint = nearest(settings.source, [*SOURCES, "module:function"])
        raise BadInput(f"data.source = {settings.source!r} is not a source labline knows; {hint}")
    return listing if settings.labels is None else listing.with_declared_labels(settings.labels)
