"""Bodies that hold a series: raw rows as JSON or Arrow, from which features are computed here, or windows as .npy.

Shape legend: N samples, T rows of a window, F features.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labline.errors import BadInput
from labline.packaged_model import PackagedModel
from serving.json_bodies import read_json
from serving.limits import Limits, Refused
from serving.npy import read_npy

if TYPE_CHECKING:
    from labline.series.usecase import SeriesUseCase

Windows = npt.NDArray[np.float32]
Facts = dict[str, float]
NUMBERS = {int, float, type(None)}


def npy_windows(body: bytes, model: PackagedModel, limits: Limits) -> tuple[Windows, bool, list[Facts]]:
    """A .npy of float32 T x F, one window of features, or N x T x F."""
    _, rows, features = model.input.shape
    expected = f"float32 windows of features, N x {rows} x {features} (windows, rows, features)"
    found = read_npy(body, "float32", expected)
    single = found.ndim == 2
    windows_NTF: Windows = found[None] if single else found
    if windows_NTF.shape[1:] != (rows, features):
        raise Refused(422, f"the shape is {' x '.join(map(str, windows_NTF.shape))}; expected {expected}")
    if not len(windows_NTF):
        raise Refused(422, f"no window was sent; expected at least one: {expected}")
    if len(windows_NTF) > limits.max_samples:
        raise Refused(413, f"{len(windows_NTF):,} windows were sent; at most {limits.max_samples:,} are taken at once")
    if not np.isfinite(windows_NTF).all():
        raise Refused(422, "the windows hold numbers that are not finite; expected finite features")
    return windows_NTF, single, window_facts(windows_NTF, model)


def arrow_rows(body: bytes, model: PackagedModel, limits: Limits) -> tuple[Windows, bool, list[Facts]]:
    """An Arrow stream of raw rows, one a moment: columns as the declaration names them."""
    from serving.arrow import read_rows

    columns = read_rows(body, None, _most_rows(model, limits))
    return _forecast_input(columns, model)


def json_rows(body: bytes, model: PackagedModel, limits: Limits) -> tuple[Windows, bool, list[Facts]]:
    """`{"rows": [{"timestamp": …, "close": …}, …]}`: raw rows, one a moment; `"entity"` beside them is not read."""
    document = read_json(body)
    rows = document.get("rows") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(rows, list) or not set(document) <= {"rows", "entity"}:
        raise Refused(422, 'an object with the key "rows" was expected, a list of objects, one a moment; also "entity"')
    if not rows or not all(type(row) is dict for row in rows):
        raise Refused(422, '"rows" must be a list of objects, one a moment, and not empty')
    if len(rows) > (most := _most_rows(model, limits)):
        raise Refused(413, f"{len(rows):,} rows were sent; at most {most:,} are taken at once")
    return _forecast_input({name: [row.get(name) for row in rows] for name in rows[0]}, model)


@lru_cache(maxsize=8)
def declaration_of(folder: Path) -> SeriesUseCase:
    """The declaration that a version carries, read once; raises BadInput where it has none."""
    from labline.declaration import load_series_usecase

    path = folder / "extra_files" / "usecase.toml"
    return load_series_usecase(str(path), path.parent)


def _forecast_input(given: dict[str, list[Any]], model: PackagedModel) -> tuple[Windows, bool, list[Facts]]:
    from labline.series.latest import TIMESTAMP, columns_needed, latest_window

    declaration = declaration_of(model.folder)
    try:
        _refuse_several(given, declaration.data.entity)
        columns = {name: given[spelled] for name, spelled in columns_needed(declaration, list(given)).items()}
        for name, values in columns.items():
            _check_kinds(name, values, {str} if name == TIMESTAMP else NUMBERS)
        windows_NTF = latest_window(columns, declaration)[None]
    except BadInput as error:
        raise Refused(422, str(error)) from None
    return windows_NTF, True, window_facts(windows_NTF, model)


def _check_kinds(name: str, values: list[Any], allowed: set[type]) -> None:
    if set(map(type, values)) <= allowed:
        return
    row, found = next((row, value) for row, value in enumerate(values) if type(value) not in allowed)
    expected = "a text in ISO 8601" if allowed == {str} else "a number, or null where it is missing"
    raise Refused(422, f"row {row}, {name!r}: expected {expected}, found {str(found)[:50]!r}")


def _refuse_several(given: dict[str, list[Any]], entity: str | None) -> None:
    """Rows of several series have no one latest window."""
    if entity is not None and entity in given and len(set(map(str, given[entity]))) > 1:
        raise Refused(422, f"rows of several {entity!r} were sent; expected those of one: ask for each by itself")


def _most_rows(model: PackagedModel, limits: Limits) -> int:
    from labline.series.latest import rows_needed

    return max(limits.max_samples, rows_needed(declaration_of(model.folder)))


def window_facts(windows_NTF: Windows, model: PackagedModel) -> list[Facts]:
    """The last value of each feature, by its expression."""
    inputs = declaration_of(model.folder).features.inputs
    return [dict(zip(inputs, last, strict=True)) for last in windows_NTF[:, -1].tolist()]
