"""Cleaning a series: impossible values, duplicates, outliers and gaps, each row judged by itself and its past alone."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.data.cleaning import FINDING_COLUMNS, Cleaned
from labline.data.dataset import QUARANTINE_COLUMNS
from labline.series.declaration import Duplicates, SeriesCleaning

# The standard deviation of a normal distribution in median absolute deviations (Hampel 1974, "The Influence Curve and
# Its Role in Robust Estimation", Journal of the American Statistical Association 69).
DEVIATIONS = 1.4826
USUAL_STEPS = 21  # earlier steps whose median says how far apart rows usually are

log = logging.getLogger(__name__)


def clean_series(
    manifest: pd.DataFrame, settings: SeriesCleaning, values: Collection[str], positive: Collection[str] = ()
) -> Cleaned:
    """Apply the declared policies to the columns `values`; those of `positive` must be above zero.

    `manifest` has sample_id, timestamp, entity, split, line and value columns, sorted by entity and timestamp. The
    cleaned one has one column more, `stretch`: rows of one entity without too long a gap between them share a number,
    and neither returns nor windows lead from one stretch to another. What becomes of a row depends on it and earlier
    rows alone, except for duplicates: rows of one moment are judged together.
    """
    columns = sorted(values)
    rows = manifest.sort_values(["entity", "timestamp"], kind="stable", ignore_index=True)
    findings: list[tuple[str, str, int, int]] = []
    quarantined: list[pd.DataFrame] = []

    def settle(check: str, policy: str, suspects: pd.DataFrame, removes: bool = True) -> pd.DataFrame:
        removed = suspects if removes else suspects.head(0)
        findings.append((check, policy, len(suspects), len(removed)))
        quarantined.append(_quarantine(rows, check, removed))
        log.info("%s: %d found, %d removed", check, len(suspects), len(removed))
        return rows.drop(index=removed.index).reset_index(drop=True)

    rows = settle("value under a logarithm", "quarantine", _not_positive(rows, sorted(positive)))
    rows = settle("duplicate timestamp", settings.duplicates, _duplicates(rows, columns, settings.duplicates))
    outliers, limited = _outliers(rows, columns, settings)
    if settings.outliers == "clip":
        rows = rows.assign(**limited)
    rows = settle("outlier", settings.outliers, outliers, removes=settings.outliers == "quarantine")
    missing, filled = _missing(rows, columns, settings)
    rows = rows.assign(**filled)
    rows = settle("missing value", settings.gaps, missing, removes=settings.gaps != "keep")
    stretch = np.cumsum(_breaks(rows, settings))
    entities = rows["entity"].nunique()
    findings.append(("too long a gap", settings.gaps, int(stretch.max(initial=entities)) - entities, 0))
    return Cleaned(
        manifest=rows.assign(stretch=stretch),
        quarantine=pd.concat(quarantined, ignore_index=True),
        findings=pd.DataFrame(findings, columns=list(FINDING_COLUMNS)),
    )


def missing_steps(rows: pd.DataFrame) -> pd.Series[Any]:
    """How many rows are missing before each row, going by the usual step of the rows before it; 0 where unknown.

    Rows are sorted by entity and timestamp. The usual step is the median of up to USUAL_STEPS steps before this one:
    a weekend among trading days counts as 2, so does Saturday among days of a shop that never closes.
    """
    entity = rows["entity"]
    steps = rows.groupby(entity, sort=False)["timestamp"].diff().dt.total_seconds()
    steps = steps.where(steps > 0)  # duplicates say nothing of the usual step
    before = steps.groupby(entity, sort=False).shift(1).groupby(entity, sort=False)
    usual = before.rolling(USUAL_STEPS, min_periods=1).median().droplevel(0)
    missing: pd.Series[Any] = (steps / usual - 1).round().clip(lower=0).fillna(0).astype(np.int64)
    return missing


def trailing_score(values: pd.Series[Any], position_N: npt.NDArray[np.integer[Any]], window: int) -> pd.DataFrame:
    """How far each value lies from its past: `score`, robust standard deviations, with the `median` and `deviation`.

    The median is of the `window` values before, the deviation DEVIATIONS times the median distance of these values
    from medians of their own past: Hampel's identifier (Davies & Gather 1993, "The Identification of Multiple
    Outliers") with the past alone. NaN for the first 2 `window` rows of an entity, where the past does not vary, and
    where half of it is missing. `position_N` counts the rows of each entity from 0.
    """
    known = max(2, (window + 1) // 2)
    median = values.rolling(window, min_periods=known).median().shift(1).mask(position_N < window)
    distance = (values - median).abs()
    deviation = DEVIATIONS * distance.rolling(window, min_periods=known).median().shift(1)
    deviation = deviation.mask(position_N < 2 * window).where(deviation > 0)
    return pd.DataFrame({"median": median, "deviation": deviation, "score": (values - median) / deviation})


# Each check returns its suspects, indexed like the rows: value and reason.


def _not_positive(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    found = []
    for name in columns:
        shown = _shown(rows.loc[rows[name] <= 0, name], "{:g}")
        found.append(_suspects(shown, f"column {name!r}: expected a number above 0, for its logarithm; found " + shown))
    return _first(found)


def _duplicates(rows: pd.DataFrame, columns: list[str], policy: Duplicates) -> pd.DataFrame:
    """Rows that share their moment with another and leave: exact copies, and those that the policy does not keep."""
    # Rows of one moment keep the order of the file, for sorting was stable.
    moment = ["entity", "timestamp"]
    copies = rows.duplicated([*moment, *columns])
    different = rows[~copies].duplicated(moment, keep=False if policy == "quarantine" else policy)
    leaving = copies | different.reindex(rows.index, fill_value=False)
    rest = "their values differ and none is known to be right" if policy == "quarantine" else f"the {policy} one stays"
    reasons = copies[leaving].map(
        {True: "exact copy of another row", False: f"several rows have this timestamp: {rest}"}
    )
    return _suspects(rows.loc[leaving, "timestamp"].astype(str), reasons)


def _outliers(
    rows: pd.DataFrame, columns: list[str], settings: SeriesCleaning
) -> tuple[pd.DataFrame, dict[str, pd.Series[Any]]]:
    """The suspects, and the columns limited to what is no outlier."""
    if settings.outliers == "keep":
        return _first([]), {}
    position_N = rows.groupby("entity", sort=False).cumcount().to_numpy()
    found, limited = [], {}
    for name in columns:
        past = trailing_score(rows[name], position_N, settings.outlier_window)
        far = past["score"].abs() > settings.outlier_limit
        reach = settings.outlier_limit * past["deviation"]
        limited[name] = rows[name].mask(far, rows[name].clip(past["median"] - reach, past["median"] + reach))
        distance = _shown(past.loc[far, "score"].abs(), "{:.1f}")
        reasons = f"column {name!r} lies " + distance + " robust standard deviations from the median of its past"
        found.append(_suspects(_shown(rows.loc[far, name], "{:g}"), reasons))
    return _first(found), limited


def _missing(
    rows: pd.DataFrame, columns: list[str], settings: SeriesCleaning
) -> tuple[pd.DataFrame, dict[str, pd.Series[Any]]]:
    """Rows that lack a value, after filling where it is declared, and the columns as filled."""
    filled: dict[str, pd.Series[Any]] = {}
    reach = ""
    if settings.gaps == "forward-fill":
        by_entity = rows.groupby("entity", sort=False)
        filled = {name: by_entity[name].ffill(limit=settings.longest_gap) for name in columns}
        reach = f", nor in the {settings.longest_gap} rows before"
    found = []
    for name in columns:
        lacking = rows.index[filled.get(name, rows[name]).isna()]
        found.append(_suspects(pd.Series("", lacking), pd.Series(f"column {name!r} has no value{reach}", lacking)))
    return _first(found), filled


def _breaks(rows: pd.DataFrame, settings: SeriesCleaning) -> npt.NDArray[np.bool_]:
    """Whether a new stretch begins at each row."""
    starts = rows["entity"].ne(rows["entity"].shift()).to_numpy(copy=True)
    if settings.gaps != "keep":
        starts |= missing_steps(rows).gt(settings.longest_gap).to_numpy()
    return starts


def _shown(numbers: pd.Series[Any], pattern: str) -> pd.Series[Any]:
    return numbers.map(pattern.format).astype(object)  # of none, pandas would make numbers again


def _suspects(values: pd.Series[Any], reasons: pd.Series[Any]) -> pd.DataFrame:
    return pd.DataFrame({"value": values, "reason": reasons}, dtype=object)


def _first(found: list[pd.DataFrame]) -> pd.DataFrame:
    """One reason a row: that of the first column in which it is suspect."""
    every = pd.concat([pd.DataFrame(columns=["value", "reason"], dtype=object), *found])
    return every[~every.index.duplicated()].sort_index()


def _quarantine(rows: pd.DataFrame, check: str, removed: pd.DataFrame) -> pd.DataFrame:
    described = rows.loc[removed.index, ["sample_id", "split", "source", "line"]].assign(
        label="", stage="clean", expectation=check, value=removed["value"], reason=removed["reason"]
    )
    described["source"] += ":" + described["line"].astype(str)
    return described[list(QUARANTINE_COLUMNS)]
