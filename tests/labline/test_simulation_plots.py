"""Simulated years as a picture."""

from __future__ import annotations

from labline.monitoring.simulation import Year
from labline.simulation_plots import KINDS, simulated_years, verdicts_by_day

CALLED = Year(onset=2000, verdicts=[(0, "healthy"), (20, "watch"), (22, "retrain"), (23, "healthy")], delay=460)
MISSED = Year(onset=3000, verdicts=[(0, "healthy")])


def test_a_verdict_holds_until_the_next() -> None:
    days = [KINDS[position] for position in verdicts_by_day(CALLED)]
    assert len(days) == 365
    assert days[19:24] == ["healthy", "watch", "watch", "retrain", "healthy"]
    assert set(days[24:]) == {"healthy"}


def test_the_share_called_stops_where_drifts_were_missed() -> None:
    _, delays = simulated_years([CALLED, MISSED], per_day=100, title="two years", within=500).axes
    x, y = delays.lines[0].get_data()
    assert (list(x), list(y)) == ([0, 460], [0, 0.5])


def test_healthy_years_have_no_delays() -> None:
    assert len(simulated_years([Year(None, [(0, "healthy")])], 100, "one year", 500).axes) == 1
