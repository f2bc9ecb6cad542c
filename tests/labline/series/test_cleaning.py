from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from labline.data.dataset import QUARANTINE_COLUMNS
from labline.series.cleaning import clean_series, missing_steps, trailing_score
from labline.series.declaration import SeriesCleaning


def make_manifest(values: list[float] | np.ndarray, days: list[int] | None = None, entity: str = "a") -> pd.DataFrame:
    offsets = np.arange(len(values)) if days is None else np.array(days)
    times = pd.Timestamp("2020-01-01", tz="UTC") + pd.to_timedelta(offsets, unit="D")
    return pd.DataFrame(
        {
            "sample_id": [f"{entity}/{day}#{place}" for place, day in enumerate(offsets)],
            "timestamp": times,
            "entity": entity,
            "split": "train",
            "source": "prices.csv",
            "line": np.arange(2, 2 + len(values)),
            "close": np.asarray(values, dtype=float),
        }
    )


def cleaned(
    manifest: pd.DataFrame, positive: tuple[str, ...] = (), **policies: Any
) -> tuple[pd.DataFrame, pd.DataFrame]:
    outcome = clean_series(manifest, SeriesCleaning.model_validate(policies), ["close"], positive)
    assert tuple(outcome.quarantine.columns) == QUARANTINE_COLUMNS
    assert len(outcome.manifest) + len(outcome.quarantine) == len(manifest)
    assert outcome.findings["removed"].sum() == len(outcome.quarantine)
    return outcome.manifest, outcome.quarantine


def test_good_rows_pass_untouched() -> None:
    manifest = make_manifest(np.linspace(1, 2, 50))
    kept, quarantine = cleaned(manifest, ("close",), outliers="quarantine")
    pd.testing.assert_frame_equal(kept.drop(columns="stretch"), manifest)
    assert quarantine.empty and set(kept["stretch"]) == {1}


def test_a_price_of_zero_or_less_has_no_logarithm() -> None:
    kept, quarantine = cleaned(make_manifest([1, 0, 2, -3]), ("close",))
    assert kept["close"].tolist() == [1, 2]
    assert quarantine["reason"].str.endswith(("found 0", "found -3")).all()
    assert list(quarantine["source"]) == ["prices.csv:3", "prices.csv:5"]
    assert cleaned(make_manifest([1, 0, 2, -3]))[1].empty  # where no logarithm is taken, they are as good as any


@pytest.mark.parametrize(("policy", "stays"), [("first", [1, 2, 4]), ("last", [1, 3, 4]), ("quarantine", [1, 4])])
def test_of_rows_of_one_moment_the_declared_one_stays(policy: str, stays: list[float]) -> None:
    kept, quarantine = cleaned(make_manifest([1, 2, 3, 4], [0, 1, 1, 2]), duplicates=policy)
    assert kept["close"].tolist() == stays
    assert quarantine["reason"].str.startswith("several rows have this timestamp").all()


def test_exact_copies_are_one_row_whatever_the_policy() -> None:
    kept, quarantine = cleaned(make_manifest([1, 2, 2, 4], [0, 1, 1, 2]))
    assert kept["close"].tolist() == [1, 2, 4] and list(quarantine["reason"]) == ["exact copy of another row"]


def test_missing_values_leave_stay_or_take_the_last_known() -> None:
    manifest = make_manifest([np.nan, 1, np.nan, np.nan, np.nan, 5])
    assert cleaned(manifest, gaps="drop")[0]["close"].tolist() == [1, 5]
    assert cleaned(manifest, gaps="keep")[0]["close"].isna().sum() == 4
    kept, quarantine = cleaned(manifest, gaps="forward-fill", longest_gap=2)
    assert kept["close"].tolist() == [1, 1, 1, 5]
    assert list(quarantine["sample_id"]) == ["a/0#0", "a/4#4"]
    assert "nor in the 2 rows before" in quarantine["reason"].iloc[1]


def test_nothing_is_filled_from_another_entity() -> None:
    manifest = pd.concat([make_manifest([1, 2], entity="a"), make_manifest([np.nan, 4], entity="b")])
    kept, _ = cleaned(manifest, gaps="forward-fill")
    assert kept["close"].tolist() == [1, 2, 4] and kept["stretch"].tolist() == [1, 1, 2]


def test_too_long_a_gap_begins_a_new_stretch() -> None:
    manifest = make_manifest([1, 2, 3, 4, 5, 6], [0, 1, 2, 10, 11, 20])
    assert missing_steps(manifest).tolist() == [0, 0, 0, 7, 0, 8]
    assert cleaned(manifest, longest_gap=7)[0]["stretch"].tolist() == [1, 1, 1, 1, 1, 2]
    assert cleaned(manifest, longest_gap=6)[0]["stretch"].tolist() == [1, 1, 1, 2, 2, 3]
    assert cleaned(manifest, longest_gap=6, gaps="keep")[0]["stretch"].tolist() == [1] * 6


def test_weekends_are_bridged() -> None:
    days = [day for day in range(60) if day % 7 < 5]
    assert set(cleaned(make_manifest(np.arange(1, len(days) + 1.0), days))[0]["stretch"]) == {1}


def test_a_spike_is_quarantined_or_clipped_and_a_crash_in_wild_times_is_not() -> None:
    generator = np.random.default_rng(0)
    prices = 100 + generator.normal(0, 1, 100)
    prices[60] = 1000  # a slip of the decimal point
    prices[80] = 108  # wild, but not impossible
    kept, quarantine = cleaned(make_manifest(prices), outliers="quarantine")
    assert list(quarantine["value"]) == ["1000"] and len(kept) == 99
    assert "robust standard deviations from the median of its past" in quarantine["reason"].iloc[0]
    kept, _ = cleaned(make_manifest(prices), outliers="clip")
    assert 100 < kept["close"][60] < 150
    np.testing.assert_array_equal(np.delete(kept["close"].to_numpy(), 60), np.delete(prices, 60))


def test_scores_of_a_normal_series_are_about_normal() -> None:
    values = pd.Series(np.random.default_rng(0).normal(5, 3, 5000))
    scores = trailing_score(values, np.arange(5000), 250)["score"]
    assert scores.std() == pytest.approx(1, abs=0.05) and scores[:500].isna().all()


def test_what_never_varied_cannot_judge() -> None:
    assert trailing_score(pd.Series([1.0] * 100 + [5.0]), np.arange(101), 10)["score"].isna().all()
