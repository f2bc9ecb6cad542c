"""Simulated years: quiet when nothing happens, soon awake when something does, the same for the same seed."""

from __future__ import annotations

import pytest
from saved_reference import answers, shifted_answers

from labline.monitoring.declaration import Monitoring
from labline.monitoring.examination import Examiner, prepare
from labline.monitoring.samples import reference_samples
from labline.monitoring.simulation import Drift, drifted_share, simulate, summary

HEALTHY, NOISY = reference_samples(answers(3000, 1)), reference_samples(answers(1500, 2, noise=0.2))


@pytest.fixture(scope="module")
def examiner() -> Examiner:
    return prepare(answers(800, 0), Monitoring(window=1000), shifted_answers())


def test_healthy_years_are_quiet(examiner: Examiner) -> None:
    found = summary(simulate(examiner, HEALTHY, None, "none", years=20, per_day=40, label_share=0.1))
    assert found["false_alarm_rate"] == 0
    assert found["retrainings"] == 0


def test_sudden_drift_is_called_soon_and_ends_what_is_lost(examiner: Examiner) -> None:
    years = simulate(examiner, HEALTHY, NOISY, "sudden", years=6, per_day=100)
    found = summary(years)
    assert found["detected_within_500"] == 1 and found["false_alarm_rate"] == 0
    for year in years:
        assert year.onset is not None and year.delay is not None
        assert 0 < year.lost <= year.delay  # it lost less than it answered until then
        assert [kind for _, kind in year.verdicts][-2:] == ["retrain", "healthy"]


def test_the_same_seed_gives_the_same_years(examiner: Examiner) -> None:
    first, again, other = (
        simulate(examiner, HEALTHY, NOISY, "gradual", years=2, per_day=30, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("drift", "days"),
    [("none", [0, 0, 0]), ("sudden", [0, 1, 1]), ("gradual", [0, 1 / 60, 0.5]), ("recurring", [0, 1, 0])],
)
def test_each_drift_has_its_course(drift: Drift, days: list[float]) -> None:
    assert [drifted_share(drift, day) for day in (-1, 0, 29)] == pytest.approx(days)
