"""A challenging forecaster is held against the margin as a share of the champion's loss, and entity by entity."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.series.comparison import ForecastComparison
from labline.series.gates import judge_forecasts
from labline.series.usecase import SeriesPromotion, SeriesUseCase

ENTITIES = [("north", 50, 0.40, 0.42), ("south", 50, 0.40, 0.38), ("west", 19, 0.40, 0.80)]


def comparison(
    low: float = -0.02,
    high: float = 0.03,
    is_loss: bool = True,
    relative: bool = True,
    entities: list[tuple[str, int, float, float]] = ENTITIES[:0],
) -> ForecastComparison:
    groups = pd.DataFrame(
        [
            ("entity", name, support, champion, challenger, challenger / champion - 1)
            for name, support, champion, challenger in entities
        ],
        columns=["kind", "value", "support", "champion", "challenger", "difference"],
    )
    metric, middle = "qlike" if is_loss else "accuracy", (low + high) / 2
    return ForecastComparison(
        100, 50, metric, 0.4, 0.4 * (1 + middle), middle, low, high, 0.95, relative, is_loss, 0.3, 0.76, groups
    )


@given(high=st.floats(-1, 1), margin=st.floats(0, 1))
def test_a_loss_passes_exactly_where_it_is_surely_within_the_margin(high: float, margin: float) -> None:
    (judgement,) = judge_forecasts(comparison(low=-1, high=high), SeriesPromotion(margin=margin), "version 1")
    assert judgement.passed == (high <= margin)
    assert judgement.figure == high


def test_the_judgement_says_what_it_rests_on() -> None:
    (judgement,) = judge_forecasts(comparison(), SeriesPromotion(), "version 1")
    assert judgement.gate == "qlike against version 1"
    assert judgement.limit == "difference at most 0.05 of the loss (95 % sure)"
    assert judgement.note == "0.402 against 0.4 on 100 windows, +0.50 % (Diebold–Mariano p = 0.76)"


def test_log_scores_and_shares_of_classes_are_judged_in_their_own_unit() -> None:
    (nats,) = judge_forecasts(comparison(relative=False), SeriesPromotion(), "version 1")
    assert nats.limit == "difference at most 0.05 (95 % sure)"
    share = SeriesPromotion(margin=0.01)
    (worse,) = judge_forecasts(comparison(low=-0.02, is_loss=False, relative=False), share, "version 1")
    (fine,) = judge_forecasts(comparison(low=-0.01, is_loss=False, relative=False), share, "version 1")
    assert (worse.passed, fine.passed, fine.limit) == (False, True, "difference at least -0.01 (95 % sure)")


@pytest.mark.parametrize("high", [math.inf, math.nan])
def test_a_bound_that_the_data_do_not_set_never_passes(high: float) -> None:
    assert not judge_forecasts(comparison(high=high), SeriesPromotion(margin=1), "version 1")[0].passed


def test_the_entity_that_loses_most_is_judged_where_it_is_large_enough() -> None:
    _, worst = judge_forecasts(comparison(entities=ENTITIES), SeriesPromotion(slice_margin=0.04), "version 1")
    assert worst.gate == "worst entity: north"
    assert not worst.passed
    assert worst.figure == pytest.approx(0.05)
    assert worst.note == "0.42 against 0.4 of version 1 on 50 windows"
    assert judge_forecasts(comparison(entities=ENTITIES), SeriesPromotion(), "version 1")[1].passed
    assert len(judge_forecasts(comparison(entities=ENTITIES[2:]), SeriesPromotion(), "version 1")) == 1


def test_another_confidence_than_the_declared_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="declared 0.9"):
        judge_forecasts(comparison(), SeriesPromotion(confidence=0.9), "version 1")


def declared(head: str, target: str, **promotion: float) -> SeriesPromotion:
    task = "classification" if head == "classes" else "regression"
    sections = {
        "data": {"source": "sp500"},
        "features": {"inputs": ["close"], "target": target},
        "model": {"head": head},
        "training": {"epochs": 1},
    }
    return SeriesUseCase.model_validate(
        {"name": "any", "title": "Any", "modality": "series", "task": task, "promotion": promotion, **sections}
    ).promotion


def test_margins_are_shares_of_a_loss_and_points_of_accuracy() -> None:
    assert declared("gaussian", "value").margin == 0.05
    directions = declared("classes", "direction")
    assert (directions.margin, directions.slice_margin) == (0.01, 0.05), "five points of accuracy are too many"
    assert declared("classes", "direction", margin=0.03).margin == 0.03
