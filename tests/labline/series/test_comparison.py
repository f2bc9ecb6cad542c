"""Forecasters are compared in pairs, moment by moment: what the bounds say, and what must not change them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labline.errors import BadInput
from labline.series.comparison import ForecastComparison, champion_windows, compare_forecasts
from labline.series.dataset import windows
from labline.series.forecasting import ForecastSettings
from tests.labline.series.market import FEATURES, as_csv, make_prices, prepare

POINT = ForecastSettings(head="point", target="value")
GAUSSIAN = ForecastSettings(head="gaussian", target="value")
CLASSES = ForecastSettings(head="classes", target="direction")


def moments(count: int, entities: tuple[str, ...] = ("only",)) -> pd.DataFrame:
    """The rows at which windows end: every entity at every moment."""
    days = pd.bdate_range("2020-01-01", periods=count, tz="UTC")
    return pd.concat([pd.DataFrame({"timestamp": days, "entity": name}) for name in entities], ignore_index=True)


def errors(count: int, size: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, count).astype(np.float32)


def of_errors(
    champion_N: np.ndarray, challenger_N: np.ndarray, horizon: int = 1, rows: pd.DataFrame | None = None
) -> ForecastComparison:
    """Two point forecasts of zeros, compared on their squared errors."""
    targets_N = np.zeros(len(champion_N), np.float32)
    known = moments(len(champion_N)) if rows is None else rows
    outputs = champion_N[:, None].astype(np.float32), challenger_N[:, None].astype(np.float32)
    return compare_forecasts(*outputs, targets_N, known, horizon, (POINT, POINT), "mse")


def test_a_worse_forecaster_is_worse_by_a_share_of_the_champions_loss() -> None:
    found = of_errors(errors(400, 1.0, seed=0), errors(400, 1.3, seed=1))
    assert found.relative and found.is_loss
    assert found.champion == pytest.approx(1.0, rel=0.2)
    assert found.difference == pytest.approx(found.challenger / found.champion - 1)
    assert 0 < found.low < found.difference < found.high < 2
    assert found.diebold_mariano > 0 and found.diebold_mariano_p < 0.05
    assert found.groups.empty
    assert found.verdict.startswith(f"difference +{100 * found.difference:.2f} %; 95 % sure above +")


def test_a_forecaster_is_as_good_as_itself() -> None:
    same_N = errors(50, 1.0, seed=0)
    found = of_errors(same_N, same_N, horizon=5)
    assert (found.difference, found.diebold_mariano, found.diebold_mariano_p) == (0, 0, 1)
    assert (found.low, found.high) == (0, 0), "it passes a margin of 0"


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), horizon=st.integers(1, 5), share=st.floats(0.7, 1.4), unit=st.floats(0.01, 100))
def test_neither_the_unit_nor_who_is_called_champion_changes_what_is_found(
    seed: int, horizon: int, share: float, unit: float
) -> None:
    first_N = errors(120, 1.0, seed)
    second_N = share * (first_N + errors(120, 0.3, seed + 1000))
    found, scaled = of_errors(first_N, second_N, horizon), of_errors(unit * first_N, unit * second_N, horizon)
    assert (scaled.low, scaled.difference, scaled.high) == pytest.approx(
        (found.low, found.difference, found.high), rel=1e-3, abs=1e-5
    )
    swapped = of_errors(second_N, first_N, horizon)
    assert 1 + swapped.difference == pytest.approx(1 / (1 + found.difference))
    assert (1 + swapped.low, 1 + swapped.high) == pytest.approx((1 / (1 + found.high), 1 / (1 + found.low)), rel=1e-3)
    assert found.low <= found.difference <= found.high


def test_the_bound_holds_about_as_often_as_it_says() -> None:
    """Overlapping horizons make neighbouring losses alike; counted as new evidence, they would narrow the bound."""
    random, horizon, held = np.random.default_rng(0), 4, 0
    kernel = np.ones(horizon) / math.sqrt(horizon)
    for _ in range(100):
        shared, own, other = (np.convolve(random.normal(size=203), kernel, "valid") for _ in range(3))
        found = of_errors(shared + 0.3 * own, shared + 0.3 * other, horizon)  # equally good: the true difference is 0
        held += found.high >= 0
    assert 0.90 <= held / 100 <= 0.99


def test_what_strikes_all_entities_at_once_counts_once() -> None:
    first_N, second_N = errors(200, 1.0, seed=0), errors(200, 1.1, seed=1)
    alone = of_errors(first_N, second_N, 2)
    rows = moments(200, ("north", "south"))
    both = of_errors(np.tile(first_N, 2), np.tile(second_N, 2), 2, rows)
    assert (both.samples, both.moments) == (400, 200)
    assert (both.low, both.high) == pytest.approx((alone.low, alone.high), abs=1e-6)


def test_every_entity_is_shown_where_there_are_several() -> None:
    rows = moments(100, ("north", "south"))
    found = of_errors(np.full(200, 1.0), np.repeat([1.0, 2.0], 100), 1, rows)
    assert found.groups.to_dict("records") == [
        {"kind": "entity", "value": "north", "support": 100, "champion": 1, "challenger": 1, "difference": 0},
        {"kind": "entity", "value": "south", "support": 100, "champion": 1, "challenger": 4, "difference": 3},
    ]


def test_log_scores_are_compared_in_nats() -> None:
    targets_N = errors(300, 1.0, seed=0)
    sharp_N2, blunt_N2 = (np.column_stack([np.zeros(300), np.full(300, std)]).astype(np.float32) for std in (1, 3))
    found = compare_forecasts(sharp_N2, blunt_N2, targets_N, moments(300), 1, (GAUSSIAN, GAUSSIAN), "log_score")
    assert not found.relative
    assert found.difference == pytest.approx(found.challenger - found.champion)
    assert 0 < found.low < found.difference < found.high < 1
    assert "difference +0." in found.verdict


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_score"])
def test_directions_are_compared_as_classes(metric: str) -> None:
    random = np.random.default_rng(0)
    targets_N = random.integers(0, 2, 400).astype(np.float32)
    known_N = 2 * targets_N - 1
    logits = [np.column_stack([-knows * known_N, knows * known_N]) for knows in (1.0, 0.2)]
    good_N2, poor_N2 = ((each + random.normal(0, 0.8, (400, 2))).astype(np.float32) for each in logits)
    rows, both = moments(200, ("north", "south")), (CLASSES, CLASSES)
    found = compare_forecasts(good_N2, poor_N2, targets_N, rows, 2, both, metric, bootstrap=200)
    worse = found.difference if found.is_loss else -found.difference
    assert found.is_loss == (metric == "log_score") and not found.relative
    assert worse > 0.1 and found.low < found.difference < found.high
    assert (found.low > 0) if found.is_loss else (found.high < 0)
    assert found.diebold_mariano > 0 and found.diebold_mariano_p < 0.01
    again = compare_forecasts(good_N2, poor_N2, targets_N, rows, 2, both, metric, bootstrap=200)
    assert (again.low, again.high) == (found.low, found.high)


def test_a_champion_without_loss_cannot_be_matched_by_a_share() -> None:
    found = of_errors(np.zeros(30), errors(30, 1.0, seed=0))
    assert (found.difference, found.low, found.high) == (math.inf, math.inf, math.inf)


def test_what_cannot_be_compared_is_said() -> None:
    few = errors(3, 1.0, seed=0)
    with pytest.raises(BadInput, match="more than the horizon"):
        of_errors(few, few, horizon=3)
    outputs = few[:, None], np.column_stack([few, np.ones(3)]).astype(np.float32)
    with pytest.raises(BadInput, match="the champion, of head point, has no log_score"):
        compare_forecasts(*outputs, few, moments(3), 1, (POINT, GAUSSIAN), "log_score")


def test_a_champion_with_other_features_is_asked_with_its_own(tmp_path: Path) -> None:
    table = as_csv(make_prices(200), tmp_path)
    ours = prepare(table, tmp_path / "ours")
    others = FEATURES.model_copy(update={"inputs": ["log-return(close)"], "window": 25})
    theirs = prepare(table, tmp_path / "theirs", others)
    test = windows(ours, "test")
    seen, complete = champion_windows(ours, test, others)
    assert complete.sum() == len(seen) > 0
    expected = replace(windows(theirs, "test"), indices=seen.indices)
    np.testing.assert_array_equal(seen.batch(range(len(seen)))[0], expected.batch(range(len(seen)))[0])
    assert champion_windows(ours, test, FEATURES)[0] is test
    with pytest.raises(BadInput, match="no column 'bid'"):
        champion_windows(ours, test, FEATURES.model_copy(update={"inputs": ["log(bid)"]}))
