"""Great Expectations on a manifest: which suite, what it found, which rows it rejects.

What a failing expectation means follows from GX's own `severity`:

- `critical`: rows that break it go to quarantine; if the expectation fails as a whole, the flow stops.
- `warning`: rows that break it go to quarantine; the flow goes on.
- `info`: reported only.

With `mostly`, a critical expectation tolerates some bad rows (they are quarantined) and stops on too many.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from labline.data.dataset import MANIFEST_COLUMNS, QUARANTINE_COLUMNS
from labline.errors import BadInput, LablineError, nearest
from tasks.data_docs import write_data_docs

# Great Expectations takes 8 seconds to import: only the functions that need it do so.
if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite, ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.datasource.fluent.interfaces import Batch
    from great_expectations.expectations.expectation import Expectation

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when Great Expectations is imported

logger = logging.getLogger(__name__)

DERIVED_COLUMNS = (
    "splits_of_content",  # in how many splits this sha256 occurs; more than 1 is a leak
    "samples_of_label",  # samples of this label in this split
    "imbalance",  # how many times larger the largest class of this split is than this row's class
)
RESULT_COLUMNS = (
    "expectation",  # its GX type, such as expect_column_values_to_be_unique
    "column",  # empty for expectations on the whole table
    "severity",  # critical | warning | info
    "success",
    "observed",  # what was seen, as text
    "unexpected_count",  # rows that break it; missing for expectations that do not look at rows
    "unexpected_percent",  # 0 to 100, of the rows with a value
    "description",
)
PARAMETERS = ("labels",)
SUITE_KEYS = ("name", "expectations", "notes", "meta", "id", "suite_parameters")
EXPECTATION_KEYS = ("type", "kwargs", "severity", "description", "notes", "meta", "id", "rendered_content")
SEVERITIES = ("critical", "warning", "info")


@dataclass(frozen=True)
class Validation:
    """What a suite found in a manifest.

    `success` is true when every expectation held, whatever its severity. `results` has one row an
    expectation (RESULT_COLUMNS), in the order of the suite; `critical` are those of them that must
    stop the flow. `failing` has one row for each manifest row and expectation it breaks
    (QUARANTINE_COLUMNS); its index repeats the manifest's, so `manifest.drop(failing.index)` is
    what remains.
    """

    success: bool
    results: pd.DataFrame
    failing: pd.DataFrame
    critical: pd.DataFrame


def find_suite(name: str, folder: Path) -> Path:
    """The file of a suite: `name` is one in `folder`, or the path of a .json file.

    Raises BadInput, with the nearest valid name, when there is no such file.
    """
    path = Path(os.path.expandvars(name)).expanduser() if name.endswith(".json") else folder / f"{name}.json"
    if path.is_file():
        return path
    hint = nearest(name, [suite.stem for suite in folder.glob("*.json")])
    raise BadInput(
        f"expectations.suite: no suite {name!r} at {path}; "
        f"expected a name in {folder} or the path of a .json file, {hint}"
    )


def load_suite(path: Path) -> ExpectationSuite:
    """Read a suite from JSON, every entry checked.

    GX itself logs an entry it does not understand and goes on without it, so each one is built here.
    Raises BadInput naming file, entry, key and the nearest valid name.
    """
    content = _read_json(path)
    _refuse_unknown_keys(content, SUITE_KEYS, f"{path}")
    entries = content.get("expectations")
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"{path}: 'expectations' must be a list with at least one expectation")
    expectations = [_build_expectation(entry, number, path) for number, entry in enumerate(entries)]
    return _suite(str(content.get("name", path.stem)), expectations)


def check_manifest(manifest: pd.DataFrame, suite_path: Path, labels: tuple[str, ...], data_docs: Path) -> Validation:
    """Run the suite at `suite_path` on a manifest and write what it found to `data_docs`/index.html.

    The suite sees MANIFEST_COLUMNS, whatever else the manifest has, and DERIVED_COLUMNS; its
    parameter `labels` is `labels`. The index of `manifest` must be unique.
    Raises BadInput when the suite cannot be read or names a column that no manifest has.
    """
    suite = load_suite(suite_path)
    rows = _with_derived_columns(manifest.reset_index(drop=True), labels)
    _refuse_unknown_columns(suite, rows, suite_path)
    batch = _batch(rows)
    parameters = {"labels": list(labels)}
    # Naming every breaking row is slow, so a quick pass finds the expectations that have any.
    found = _validate(batch, suite, "SUMMARY", parameters)
    write_data_docs(found, data_docs)
    results = _results_table(suite, found)
    failing = _failing_rows(rows, batch, suite, results, parameters)
    failing.index = manifest.index[failing.index]
    stopping = (results["severity"] == "critical") & ~results["success"]
    return Validation(
        success=bool(results["success"].all()), results=results, failing=failing, critical=results[stopping]
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = nearest(path.stem, [suite.stem for suite in path.parent.glob("*.json")])
        raise BadInput(f"{path}: no such suite, {hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: the suite cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{path}: line {error.lineno}, column {error.colno}: not JSON ({error.msg}); mend this place"
        ) from error
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected an object with the keys 'name' and 'expectations'")
    return content


def _build_expectation(entry: Any, number: int, path: Path) -> Expectation:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.registry import list_registered_expectation_implementations
    from pydantic.v1 import ValidationError

    where = f"{path}: expectations[{number}]"
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise BadInput(f"{where}: expected an object with the keys 'type', 'kwargs' and 'severity'")
    _refuse_unknown_keys(entry, EXPECTATION_KEYS, where)
    valid_types = list_registered_expectation_implementations()
    if entry["type"] not in valid_types:
        raise BadInput(f"{where}.type: no expectation {entry['type']!r}, {nearest(entry['type'], valid_types)}")
    severity = entry.get("severity", "critical")
    if severity not in SEVERITIES:
        raise BadInput(f"{where}.severity: {severity!r} is none of {', '.join(SEVERITIES)}")
    arguments = entry.get("kwargs", {})
    if not isinstance(arguments, dict):
        raise BadInput(f'{where}.kwargs: expected an object of arguments such as {{"column": "label"}}')
    _refuse_unknown_parameters(arguments, where)
    configuration = ExpectationConfiguration(**{**entry, "kwargs": arguments, "severity": severity, "id": None})
    try:
        return configuration.to_domain_obj()
    except ValidationError as error:
        problems = "; ".join(_problem(problem, configuration) for problem in error.errors())
        raise BadInput(f"{where}.kwargs of {entry['type']}: {problems}") from error


def _suite(name: str, expectations: Sequence[Expectation]) -> ExpectationSuite:
    """A suite whose expectations carry their position as id, because GX returns results in an order of its own."""
    from great_expectations.core import ExpectationSuite

    suite = ExpectationSuite(
        name=name, expectations=[expectation.copy(update={"id": None}) for expectation in expectations]
    )
    for number, expectation in enumerate(suite.expectations):
        expectation.id = str(number)
    return suite


def _problem(problem: Any, configuration: Any) -> str:
    from great_expectations.expectations.registry import get_expectation_impl

    key = ".".join(str(part) for part in problem["loc"] if part != "__root__")
    if problem["type"] == "value_error.extra":
        valid = set(get_expectation_impl(configuration.type).__fields__) - set(EXPECTATION_KEYS)
        return f"unknown argument {key!r}, {nearest(key, valid)}"
    return f"{key}: {problem['msg']}" if key else str(problem["msg"])


def _refuse_unknown_keys(content: dict[str, Any], valid: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in valid:
            raise BadInput(f"{where}: unknown key {key!r}, {nearest(key, valid)}")


def _refuse_unknown_parameters(arguments: dict[str, Any], where: str) -> None:
    for key, value in arguments.items():
        name = value.get("$PARAMETER", "labels") if isinstance(value, dict) else "labels"
        if name not in PARAMETERS:
            raise BadInput(f"{where}.kwargs.{key}: no parameter {name!r}, {nearest(str(name), PARAMETERS)}")


def _refuse_unknown_columns(suite: ExpectationSuite, rows: pd.DataFrame, path: Path) -> None:
    valid = {*MANIFEST_COLUMNS, *DERIVED_COLUMNS, *map(str, rows.columns)}
    for number, expectation in enumerate(suite.expectations):
        for column in _columns(expectation.configuration.kwargs):
            if column not in valid:
                raise BadInput(
                    f"{path}: expectations[{number}].kwargs: the manifest has no column {column!r}, "
                    f"{nearest(column, valid)}"
                )


def _columns(arguments: dict[str, Any]) -> list[str]:
    """The columns an expectation looks at; none for the whole table."""
    single = [arguments[key] for key in ("column", "column_A", "column_B") if key in arguments]
    return single + list(arguments.get("column_list", []))


def _with_derived_columns(manifest: pd.DataFrame, labels: tuple[str, ...]) -> pd.DataFrame:
    """The manifest with as many of DERIVED_COLUMNS as its columns allow; unknown labels are not counted as classes."""
    derived: dict[str, pd.Series[Any]] = {}
    if {"sha256", "split"} <= set(manifest.columns):
        content, _ = pd.factorize(manifest["sha256"])
        places = pd.DataFrame({"content": content, "split": manifest["split"]}).drop_duplicates()
        derived["splits_of_content"] = pd.Series(content).map(places["content"].value_counts())
    if {"label", "split"} <= set(manifest.columns):
        known = manifest["label"].where(manifest["label"].isin(labels))
        size = known.groupby([manifest["split"], known], observed=True).transform("size")
        derived["samples_of_label"] = size
        derived["imbalance"] = size.groupby(manifest["split"], observed=True).transform("max") / size
    return manifest.assign(**derived)


def _batch(rows: pd.DataFrame) -> Batch:
    """`rows` as GX sees data, in a context that lives in memory only."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("manifest").add_dataframe_asset("manifest")
    return asset.add_batch_definition_whole_dataframe("manifest").get_batch(batch_parameters={"dataframe": rows})


def _validate(
    batch: Batch, suite: ExpectationSuite, result_format: str, parameters: dict[str, Any]
) -> ExpectationSuiteValidationResult:
    """Run a suite; results in the order of the suite, with plain Python values."""
    # GX copies the frame for every condition; copy-on-write (the way of pandas 3) makes these copies free.
    with pd.option_context("mode.copy_on_write", True):
        found = batch.validate(suite, result_format={"result_format": result_format}, expectation_parameters=parameters)
    found.results.sort(key=_position)
    for result in found.results:
        result.result = json.loads(json.dumps(result.result, default=_plain))
    return found


def _plain(value: Any) -> Any:
    # GX 1.24 can neither store nor render some NumPy 2 scalars.
    return value.item() if isinstance(value, np.generic) else str(value)


def _position(result: ExpectationValidationResult) -> int:
    configuration = result.expectation_config
    if configuration is None or configuration.id is None:
        raise LablineError("Great Expectations returned a result without its expectation; report this as a bug")
    return int(configuration.id)


def _results_table(suite: ExpectationSuite, found: ExpectationSuiteValidationResult) -> pd.DataFrame:
    rows = [
        (
            expectation.expectation_type,
            ", ".join(_columns(expectation.configuration.kwargs)),
            expectation.configuration.severity.value,
            bool(result.success),
            _observed(result),
            result.result.get("unexpected_count"),
            result.result.get("unexpected_percent"),
            _description(expectation),
        )
        for expectation, result in zip(suite.expectations, found.results, strict=True)
    ]
    table = pd.DataFrame(rows, columns=list(RESULT_COLUMNS))
    return table.astype({"unexpected_count": "Int64", "unexpected_percent": "Float64"})


def _description(expectation: Expectation) -> str:
    """What the suite says of an expectation, and the share of rows that must meet it."""
    mostly = expectation.configuration.kwargs.get("mostly")
    share = f" (at least {mostly:.4g} of the rows)" if isinstance(mostly, float) and mostly < 1 else ""
    return f"{expectation.description or ''}{share}".strip()


def _observed(result: ExpectationValidationResult) -> str:
    """What GX saw, as one line: why it could not look, what is missing, the first breaking values, or a figure."""
    seen = result.result
    errors = _exception_messages(result.exception_info or {})
    missing = seen.get("partial_missing_list") or (seen.get("details") or {}).get("mismatched", {}).get("missing")
    if errors:
        return f"could not be evaluated: {errors[0]}"
    if missing:
        return f"missing: {', '.join(map(str, missing))}"
    if seen.get("partial_unexpected_list"):
        return ", ".join(list(dict.fromkeys(map(str, seen["partial_unexpected_list"])))[:5])
    observed = seen.get("observed_value")
    if observed is None:
        return ""
    return f"{observed:g}" if isinstance(observed, float) else str(observed)


def _exception_messages(information: dict[str, Any]) -> list[str]:
    """GX tells of one exception, or of one a metric."""
    causes = [information] if "raised_exception" in information else list(information.values())
    return [str(cause["exception_message"]) for cause in causes if cause["raised_exception"]]


def _failing_rows(
    rows: pd.DataFrame, batch: Batch, suite: ExpectationSuite, results: pd.DataFrame, parameters: dict[str, Any]
) -> pd.DataFrame:
    """QUARANTINE_COLUMNS for every row that breaks a critical or warning expectation; index: position in `rows`."""
    broken = results["unexpected_count"].fillna(0).gt(0) & results["severity"].ne("info")
    chosen = _suite(suite.name, [suite.expectations[number] for number in np.flatnonzero(broken)])
    if not chosen.expectations:
        return pd.DataFrame(columns=list(QUARANTINE_COLUMNS), index=pd.RangeIndex(0))
    found = _validate(batch, chosen, "COMPLETE", parameters)
    tables = [
        _rows_breaking(expectation, rows.loc[result.result["unexpected_index_list"]])
        for expectation, result in zip(chosen.expectations, found.results, strict=True)
    ]
    return pd.concat(tables).sort_index(kind="stable")


def _rows_breaking(expectation: Expectation, rows: pd.DataFrame) -> pd.DataFrame:
    columns = _columns(expectation.configuration.kwargs)
    expected = expectation.description or expectation.expectation_type
    values = rows[columns[0]].astype(str)
    for column in columns[1:]:
        values = values + ", " + rows[column].astype(str)
    described = rows.assign(
        stage="validate",
        expectation=expectation.expectation_type,
        value=values,
        reason=f"expected: {expected}",
    )
    return described.reindex(columns=list(QUARANTINE_COLUMNS))
