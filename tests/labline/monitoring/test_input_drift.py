"""Input drift: the distances are the field's, and what drifted comes first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from labline.monitoring.input_drift import distances, holm, input_drift, population_stability_index

samples = st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=2, max_size=40).map(
    lambda x: np.sort(np.array(x))
)


@given(one=samples, other=samples)
@settings(deadline=None, max_examples=60)
def test_both_distances_are_those_of_scipy(one: np.ndarray, other: np.ndarray) -> None:
    ks, wasserstein = distances(one, other)
    assert ks == pytest.approx(stats.ks_2samp(one, other, method="asymp").statistic, abs=1e-9)
    assert wasserstein == pytest.approx(stats.wasserstein_distance(one, other), abs=1e-9)


@given(one=samples, other=samples)
@settings(deadline=None, max_examples=60)
def test_the_stability_index_is_no_less_than_zero_and_zero_of_a_sample_with_itself(
    one: np.ndarray, other: np.ndarray
) -> None:
    assert population_stability_index(one, other) >= 0
    assert population_stability_index(one, one) == pytest.approx(0)


def test_a_drifted_feature_comes_first_and_the_others_are_calm() -> None:
    generator = np.random.default_rng(0)
    reference = {name: generator.normal(0, 1, 600) for name in "abcde"}
    window = {name: generator.normal(1.0 if name == "c" else 0, 1, 500) for name in "abcde"}
    found = input_drift(reference, window)
    first = found.iloc[0]
    assert (first["feature"], first["p"] < 1e-6, first["psi"] > 0.5) == ("c", True, True)
    assert first["wasserstein"] == pytest.approx(1, abs=0.2)
    assert (found["p"][1:] > 0.01).all() and (found["psi"][1:] < 0.1).all()


def test_values_never_seen_before_are_counted_also_where_the_reference_is_constant() -> None:
    found = input_drift({"width": np.full(100, 200.0)}, {"width": np.array([200.0] * 50 + [100.0] * 50)}).iloc[0]
    assert found["outside"] == 0.5
    assert found["psi"] > 1


def test_missing_values_are_a_share_and_a_feature_without_any_is_left_out() -> None:
    values = np.array([1.0, 2.0, 3.0, np.nan])
    found = input_drift({"a": values, "b": values}, {"a": values, "b": np.full(4, np.nan)})
    assert found[["feature", "missing"]].to_numpy().tolist() == [["a", 0.25]]


def test_holm_steps_down() -> None:
    assert holm(np.array([0.04, 0.01, 0.03])).tolist() == pytest.approx([0.06, 0.03, 0.06])
