"""Nothing at or before a moment knows what comes after it: the whole chain, under every policy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from labline.errors import BadInput
from labline.series.dataset import SeriesDataset, scaling, windows
from labline.series.declaration import SeriesCleaning
from tests.labline.series.market import FEATURES, make_prices, prepare, settings_for

DAYS = 160


def faulty_prices() -> pd.DataFrame:
    """Two entities with gaps, outliers and duplicates everywhere: whatever the moment, a policy is at work at it."""
    prices = make_prices(DAYS, ("a", "b"))
    generator = np.random.default_rng(1)
    for column in ("close", "volume"):
        prices[column] *= np.where(generator.random(len(prices)) < 0.05, 1.2, 1)
        prices.loc[generator.random(len(prices)) < 0.04, column] = np.nan
    copies = prices.sample(10, random_state=0)
    return pd.concat([prices, copies.assign(volume=copies["volume"] + 1)], ignore_index=True)


BEFORE = faulty_prices()
FAULTY = BEFORE[["close", "volume"]].isna().any(axis=1) | BEFORE["close"].pct_change(fill_method=None).gt(0.1)
# Half of the moments are those at which a policy decides.
moments = st.sampled_from(sorted(set(BEFORE["date"][FAULTY]))[4:]) | st.sampled_from(sorted(set(BEFORE["date"]))[40:-1])
PRICES = ["open", "high", "low", "close", "volume"]

policies = st.fixed_dictionaries(
    {
        "gaps": st.sampled_from(["keep", "drop", "forward-fill"]),
        "outliers": st.sampled_from(["keep", "quarantine", "clip"]),
        "duplicates": st.sampled_from(["first", "last", "quarantine"]),
        "longest_gap": st.integers(3, 7),
        "outlier_window": st.just(5),
    }
)
# Half of the changes are near the moment, where a look ahead by a row or two would show.
places = st.integers(0, 8) | st.integers(0, 400)
# What a value is multiplied by: small and large changes, a change of sign, zero, nothing left.
factors = st.sampled_from([1.0, 1.01, 0.5, 1000.0, -1.0, 0.0, np.nan])


def chain(prices: pd.DataFrame, cleaning: SeriesCleaning, folder: Path, name: str) -> SeriesDataset:
    prices.to_parquet(folder / f"{name}.parquet")
    return prepare(settings_for(folder / f"{name}.parquet", max_rejected=1.0), folder / name, cleaning=cleaning)


def changed_after(moment: pd.Timestamp, level: float, changes: list[tuple[int, str, float]]) -> pd.DataFrame:
    """All later values multiplied by a level, some by factors of their own."""
    after = BEFORE.copy()
    after.loc[after["date"] > moment, PRICES] *= level
    later = after.index[after["date"] > moment]
    later = after["date"][later].sort_values(kind="stable").index  # the first places are the next rows of both
    for place, column, factor in changes:
        after.loc[later[place % len(later)], column] *= factor
    return after


def known(dataset: SeriesDataset, moment: pd.Timestamp) -> pd.DataFrame:
    """What was known at the moment: rows, features and windows up to it, and targets whose rows all lie up to it."""
    rows = dataset.manifest.assign(target=dataset.targets)
    ahead = rows.groupby("entity")["timestamp"].shift(-FEATURES.horizon)
    rows["target"] = rows["target"].where(ahead <= moment)
    rows = rows.join(pd.DataFrame(dataset.features, columns=list(dataset.description.inputs)))
    rows = rows[rows["timestamp"] <= moment]
    # Stretches are counted through the file; what matters is which rows share one.
    rows["stretch"] -= rows.groupby("entity")["stretch"].transform("min")
    return rows.drop(columns="source").reset_index(drop=True)


def decisions(dataset: SeriesDataset, moment: pd.Timestamp) -> pd.DataFrame:
    table = pd.read_parquet(dataset.directory / "quarantine.parquet").drop(columns="source")
    days = pd.to_datetime(table["sample_id"].str.extract(r"/(\d{4}-\d\d-\d\d)")[0], utc=True)
    return table[days <= moment].sort_values(["sample_id", "reason"], ignore_index=True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    moments,
    st.sampled_from([1.0, 1.5, 0.5]),
    st.lists(st.tuples(places, st.sampled_from(PRICES), factors), min_size=1, max_size=30),
    policies,
)
def test_no_value_after_a_moment_changes_what_was_known_at_it(
    naive: pd.Timestamp, level: float, changes: list[tuple[int, str, float]], policy: dict[str, Any]
) -> None:
    limit = 1.0 if policy["outliers"] == "clip" else 5.0  # so that many rows are clipped, but enough stay
    cleaning = SeriesCleaning.model_validate(policy | {"outlier_limit": limit})
    moment = naive.tz_localize("UTC")
    with tempfile.TemporaryDirectory() as folder:
        try:
            one = chain(BEFORE, cleaning, Path(folder), "one")
            other = chain(changed_after(naive, level, changes), cleaning, Path(folder), "other")
        except BadInput:
            assume(False)
        pd.testing.assert_frame_equal(known(one, moment), known(other, moment), check_exact=True)
        pd.testing.assert_frame_equal(decisions(one, moment), decisions(other, moment))
        assert_same_windows(one, other, moment)
        assert_same_splits(one, other)


def assert_same_windows(one: SeriesDataset, other: SeriesDataset, moment: pd.Timestamp) -> None:
    """The windows that end at the moment or earlier; and the scalers, if training with its targets ends by then."""
    batches, over = [], []
    for dataset in (one, other):
        times = dataset.manifest["timestamp"]
        samples = windows(dataset, "train", targets=False)
        early = np.flatnonzero((times.iloc[samples.indices] <= moment).to_numpy())
        batches.append(samples.batch(early)[0])
        ahead = times.groupby(dataset.manifest["entity"]).shift(-FEATURES.horizon)
        over.append(bool((ahead[dataset.manifest["split"] == "train"] <= moment).all()))
    np.testing.assert_array_equal(*batches)
    if all(over):
        for left, right in zip(
            vars(scaling(windows(one, "train"))).values(), vars(scaling(windows(other, "train"))).values(), strict=True
        ):
            np.testing.assert_array_equal(left, right)


def assert_same_splits(one: SeriesDataset, other: SeriesDataset) -> None:
    """Of every row that is in both, later ones too: no value moves a boundary."""
    splits = [dataset.manifest.set_index("sample_id")["split"] for dataset in (one, other)]
    shared = splits[0].index.intersection(splits[1].index)
    pd.testing.assert_series_equal(splits[0][shared], splits[1][shared])


def test_the_property_can_fail() -> None:
    """A change at the moment itself is seen: the comparison looks at what it says."""
    with tempfile.TemporaryDirectory() as folder:
        moment = BEFORE["date"].iloc[100]
        after = BEFORE.copy()
        after.loc[100, "low"] *= 0.99
        one = chain(BEFORE, SeriesCleaning(), Path(folder), "one")
        other = chain(after, SeriesCleaning(), Path(folder), "other")
        before, now = (known(dataset, moment.tz_localize("UTC")) for dataset in (one, other))
        assert not before.equals(now)
        day_before = BEFORE["date"].iloc[99].tz_localize("UTC")
        assert known(one, day_before).equals(known(other, day_before))
