"""How wrong estimates are: little where confidences mean what they meant, much where truth itself has changed."""

from __future__ import annotations

import pandas as pd
import pytest
from saved_reference import LABELS, answers, shifted_answers

from labline.estimation_errors import Shift, by_kind, estimation_errors, mean_error
from labline.monitoring.estimation import fit_estimator
from labline.monitoring.samples import reference_samples
from labline.reference import Reference


def with_other_truth(answered: Reference) -> Reference:
    """One class is called another from now on."""
    rows = answered.rows.assign(label=answered.rows["label"].replace(LABELS[0], LABELS[1]))
    return Reference(rows, answered.outputs, answered.embedding, answered.features)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    known = answers(2000, 0)
    shifts = [
        Shift("healthy", 0.0, reference_samples(answers(2000, 1))),
        Shift("noise", 0.15, reference_samples(answers(2000, 2, noise=0.15))),
        Shift("concept drift", 0.3, reference_samples(with_other_truth(answers(2000, 3)))),
    ]
    return estimation_errors(shifts, fit_estimator(known, shifted_answers()), fit_estimator(known), windows=4, size=500)


def test_healthy_windows_are_estimated_to_two_points(table: pd.DataFrame) -> None:
    assert mean_error(table, ("healthy",)) < 0.02
    assert table["cost"].iloc[0] == 0


def test_a_shift_that_the_reference_knows_is_estimated_better_than_by_confidence_alone(table: pd.DataFrame) -> None:
    noise = by_kind(table)["noise"]
    assert noise["cost"] > 0.1
    assert noise["error"] < noise["plain_error"] / 2


def test_concept_drift_goes_unseen(table: pd.DataFrame) -> None:
    drifted = by_kind(table)["concept drift"]
    assert drifted["bias"] > 0.2 and drifted["covered"] == 0


def test_shifts_that_cost_too_much_can_be_left_out(table: pd.DataFrame) -> None:
    errors = table.set_index("kind")["error"]
    kinds = ("healthy", "concept drift")
    assert mean_error(table, kinds, most_cost=0.01) == errors["healthy"]
    assert mean_error(table, kinds) == pytest.approx(errors[list(kinds)].mean())
