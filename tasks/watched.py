"""The version that is watched: the one in Production, with what its predictions are compared with."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labline.errors import BadInput
from labline.monitoring.declaration import Monitoring
from labline.series.usecase import SeriesUseCase
from labline.usecase import ImageUseCase
from tasks.chronicles import open_chronicle
from tasks.environment import storage_root
from tasks.observer import observer
from tasks.registry import Registry, look, open_registry
from tasks.stage import module_digest
from tasks.version import Version, fetch_version, open_test_rows

if TYPE_CHECKING:
    from labline.monitoring.performance import Loss
    from labline.reference import Reference

SHIFTED = "reference_shifted.parquet"
SHIFTERS = ("labline.monitoring.shifts", "labline.corruptions")  # whose sources say which shifts there are


@dataclass(frozen=True)
class Watched:
    """A version in Production, and the number of the one that a rollback would restore, if there is one."""

    version: Version
    previous: str | None

    @property
    def rules(self) -> Monitoring:
        """The rules that it was declared with."""
        return self.version.declaration.monitoring

    @property
    def metric(self) -> Loss:
        """What its answers are judged by."""
        return metric_of(self.version)


def in_production(usecase: str) -> bool:
    """Whether any version of this use case is in Production."""
    registry = open_registry(usecase)
    look(registry)
    return registry.standing().production is not None


def watch(usecase: str) -> Watched:
    """Find the version in Production and bring its files here; raises BadInput where there is none."""
    registry = open_registry(usecase)
    look(registry)
    standing = registry.standing()
    if standing.production is None:
        raise BadInput(f"no version of {usecase} is in Production, nothing can be watched: labline promote {usecase}")
    return Watched(fetch_version(registry, standing.production), standing.previous)


def metric_of(version: Version) -> Loss:
    """Accuracy where classes are told apart, QLIKE of volatilities, else the squared error."""
    declaration = version.declaration
    if not isinstance(declaration, SeriesUseCase) or declaration.model.head == "classes":
        return "accuracy"
    volatility = declaration.features.target == "realized-volatility" and declaration.model.head != "quantile"
    return "qlike" if volatility else "mse"


def reference_of(version: Version) -> Reference:
    """What the version answered to the test rows that it is compared with (see `labline.monitoring.parts`).

    Raises LablineError for a version of before there was a reference.
    """
    return _parts(version)[0]


def shifted_reference_of(version: Version) -> Reference | None:
    """What it answers to them under known shifts, and to its other test rows.

    None for a forecaster, and for a version whose test images cannot be had any more. Made once for a version, these
    rows and these shifts, and kept in the storage root.
    """
    from labline.monitoring.parts import with_known
    from labline.reference import open_reference

    if not isinstance(version.declaration, ImageUseCase):
        return None
    current, known = _parts(version)
    shipped = version.extra / SHIFTED
    path = shipped if shipped.is_file() and known is None else _kept_shifted(version, current)
    if not path.is_file():
        try:
            _write_shifted(version, current, path)
        except BadInput as error:  # such as deleted feedback: what it was measured on says enough to watch it
            observer.get().said(f"accuracy without labels is estimated from confidence alone: {error}")
            return None
    return with_known(open_reference(path), known)


def previous_version(registry: Registry, watched: Watched) -> Version | None:
    """The version that a rollback would restore, where it still can be had."""
    if watched.previous is None:
        return None
    try:
        return fetch_version(registry, watched.previous)
    except BadInput:
        return None


def _parts(version: Version) -> tuple[Reference, Reference | None]:
    """Of a retrained version the test rows of its window and the others; of any other all of them and None."""
    from labline.data.feedback import PREFIX
    from labline.monitoring.parts import asked_at, of_the_window
    from labline.reference import open_reference

    reference = open_reference(version.extra / "reference.parquet")
    attempts = open_chronicle().attempts(version.usecase)
    since = max((each.since for each in attempts if each.version == version.number), default=0.0)
    ids = reference.rows["sample_id"].astype(str)
    fed_back = ids.str.startswith(PREFIX)
    asked = ids.where(fed_back).str.removeprefix(PREFIX).map(asked_at, na_action="ignore")
    return of_the_window(reference, (fed_back & (asked >= since)).to_numpy())


def _kept_shifted(version: Version, current: Reference) -> Path:
    """Where the answers of this model to these rows under the shifts of this labline are kept."""
    digest = hashlib.sha256("\0".join(current.rows["sample_id"].astype(str)).encode())
    for shifter in SHIFTERS:
        digest.update(module_digest(f"{shifter}:").encode())
    model = storage_root() / "monitoring" / version.usecase / version.tags["chosen.sha256"][:20]
    return model / digest.hexdigest()[:20] / SHIFTED


def _write_shifted(version: Version, current: Reference, path: Path) -> None:
    from labline.monitoring.shifts import shifted_reference
    from labline.packaged_model import EMBEDDING, PROBABILITIES, open_model
    from labline.reference import write_reference

    data, model = open_test_rows(version), open_model(version.folder, threads=0)
    compared_N = data.rows("test")["sample_id"].isin(current.rows["sample_id"]).to_numpy()
    images_NHWC, targets_N = (part[compared_N] for part in data.split("test"))
    names = (PROBABILITIES, EMBEDDING) if model.has_embedding else (PROBABILITIES,)

    def answer(images: object) -> tuple[object, object]:
        probabilities_NK, *embedding = model.answer(images, names)  # type: ignore[arg-type]
        return probabilities_NK, embedding[0] if embedding else None

    shifted = shifted_reference(images_NHWC, targets_N, data.labels, answer)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    write_reference(shifted, partial, most=len(shifted.rows))
    os.replace(partial, path)
