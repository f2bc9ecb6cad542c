"""Comparison: a champion and a challenger in pairs, on the same samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from labline.comparison import Comparison, compare
from labline.errors import BadInput
from labline.gates import judge_comparison
from labline.usecase import Metric, Promotion

LABELS = ("crazing", "inclusion", "scratches")
Beliefs = npt.NDArray[np.float64]


def beliefs(decided_N: npt.ArrayLike, classes: int = 3) -> Beliefs:
    """Probabilities of a model that decides for these classes."""
    spread = 0.3 / (classes - 1)
    return np.where(np.asarray(decided_N)[:, None] == np.arange(classes), 0.7, spread)


def rows(samples: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "mean": np.arange(samples, dtype=float),
            "std": 30.0,
            "width": 200,
            "source": ["line 1", "line 2"] * (samples // 2) + ["line 1"] * (samples % 2),
        },
        index=np.arange(samples) + 500,  # a split's rows keep the manifest's index
    )


def compared(champion_NK: Beliefs, challenger_NK: Beliefs, targets_N: npt.ArrayLike, **settings) -> Comparison:
    targets_N = np.asarray(targets_N)
    arguments = {"metric": "accuracy", "bootstrap": 200} | settings
    return compare(champion_NK, challenger_NK, targets_N, LABELS, rows(len(targets_N)), **arguments)


@st.composite
def duels(draw: st.DrawFn) -> tuple[Beliefs, Beliefs, npt.NDArray[np.int64]]:
    """Two models' probabilities and the true classes of 1 to 60 samples."""
    samples, seed = draw(st.integers(1, 60)), draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    first, second = generator.dirichlet(np.ones(3), size=(2, samples))
    return first, second, generator.integers(3, size=samples)


metrics = st.sampled_from(["accuracy", "balanced_accuracy", "macro_f1", "roc_auc"])


@given(duel=duels(), metric=metrics)
@settings(max_examples=30, deadline=None)
def test_a_model_is_as_good_as_itself(duel: tuple[Beliefs, Beliefs, npt.NDArray[np.int64]], metric: Metric) -> None:
    model, _, targets = duel
    assume(metric != "roc_auc" or len(np.unique(targets)) > 1)
    same = compared(model, model, targets, metric=metric, bootstrap=50)
    assert (same.difference, same.low, same.high, same.mcnemar_p) == (0, 0, 0, 1)
    assert (same.groups["difference"] == 0).all()
    assert all(judgement.passed for judgement in judge_comparison(same, Promotion(margin=0, slice_margin=0), "itself"))


@given(duel=duels(), metric=metrics)
@settings(max_examples=30, deadline=None)
def test_swapping_champion_and_challenger_turns_everything_round(
    duel: tuple[Beliefs, Beliefs, npt.NDArray[np.int64]], metric: Metric
) -> None:
    first, second, targets = duel
    there = compared(first, second, targets, metric=metric, bootstrap=50)
    back = compared(second, first, targets, metric=metric, bootstrap=50)
    assert back.difference == pytest.approx(-there.difference, nan_ok=True)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-9, nan_ok=True)
    assert (back.champion, back.challenger) == pytest.approx((there.challenger, there.champion), nan_ok=True)
    assert (back.gained, back.lost, back.mcnemar_p) == (there.lost, there.gained, pytest.approx(there.mcnemar_p))
    assert back.groups["difference"].tolist() == (-there.groups["difference"]).tolist()


@given(duel=duels())
@settings(max_examples=30, deadline=None)
def test_a_challenger_right_wherever_the_champion_is_and_more_takes_its_place(
    duel: tuple[Beliefs, Beliefs, npt.NDArray[np.int64]],
) -> None:
    champion, second, targets = duel
    right = (champion.argmax(axis=1) == targets) | (second.argmax(axis=1) == targets)
    assume((right & (champion.argmax(axis=1) != targets)).any())
    challenger = beliefs(np.where(right, targets, champion.argmax(axis=1)))
    better = compared(champion, challenger, targets, bootstrap=50)
    assert better.difference > 0
    assert better.low >= 0
    assert (better.groups["difference"] >= 0).all()
    judged = judge_comparison(better, Promotion(margin=0, slice_margin=0, smallest_slice=1), "version 1")
    assert all(judgement.passed for judgement in judged)


def test_the_figures_of_a_small_example() -> None:
    targets = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    champion, challenger = beliefs([0, 0, 0, 2, 1, 1, 1, 1, 0, 0]), beliefs([0, 0, 2, 2, 1, 1, 1, 1, 1, 1])
    found = compared(champion, challenger, targets)
    assert (found.samples, found.champion, found.challenger, found.difference) == (10, 0.7, 0.8, 0.1)
    assert (found.gained, found.lost, found.mcnemar_p) == (2, 1, 1.0)
    classes = found.groups[found.groups["kind"] == "class"]
    assert classes["value"].tolist() == ["crazing", "inclusion"]  # no scratches here: nothing to say of them
    assert classes["support"].tolist() == [4, 6]
    assert classes["difference"].tolist() == [0.0, pytest.approx(1 - 4 / 5)]  # F1
    lines = found.groups[found.groups["kind"] == "source"].set_index("value")
    assert lines.loc["line 1", ["champion", "challenger"]].tolist() == pytest.approx([4 / 5, 4 / 5])
    assert lines.loc["line 2", ["champion", "challenger"]].tolist() == pytest.approx([3 / 5, 4 / 5])
    thirds = found.groups[found.groups["kind"] == "brightness"]
    assert thirds["support"].sum() == 10
    assert thirds["value"].str.split().str[0].astype(float).is_monotonic_increasing  # from dark to bright


@pytest.mark.parametrize(("gained", "lost"), [(0, 6), (3, 12), (9, 9)])
def test_mcnemar_asks_the_binomial_distribution_about_the_pairs_that_differ(gained: int, lost: int) -> None:
    targets = np.zeros(100, dtype=np.int64)
    champion = beliefs([1] * gained + [0] * (100 - gained))
    challenger = beliefs([0] * (100 - lost) + [1] * lost)
    found = compared(champion, challenger, targets)
    assert (found.gained, found.lost) == (gained, lost)
    tail = stats.binom.cdf(min(gained, lost), gained + lost, 0.5)
    assert found.mcnemar_p == pytest.approx(min(1.0, 2 * tail), abs=1e-12)


def test_the_bounds_are_those_of_a_paired_difference() -> None:
    """Two models that fail on the same hard half differ by little, and surely so: the failures cancel out."""
    generator = np.random.default_rng(0)
    targets = generator.integers(3, size=2000)
    hard = np.arange(2000) < 1000
    champion = beliefs(np.where(hard, (targets + 1) % 3, targets))
    changed = np.isin(np.arange(2000), [*range(60), *range(1000, 1040)])  # 60 gained, 40 lost
    challenger = beliefs(np.where(changed, np.where(hard, targets, (targets + 1) % 3), champion.argmax(axis=1)))
    found = compared(champion, challenger, targets, bootstrap=2000)
    assert found.difference == 0.01
    deviation = np.sqrt(100 / 2000 - 0.01**2) / np.sqrt(2000)
    assert found.low == pytest.approx(0.01 - 1.645 * deviation, abs=0.001)  # one-sided at 95 %
    assert found.high == pytest.approx(0.01 + 1.645 * deviation, abs=0.001)
    surer = compared(champion, challenger, targets, bootstrap=2000, confidence=0.99)
    assert surer.low < found.low
    assert surer.confidence == 0.99


def test_the_same_seed_gives_the_same_bounds() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.dirichlet(np.ones(3), size=(2, 300))
    targets = generator.integers(3, size=300)
    bounds = [(c.low, c.high) for c in (compared(first, second, targets, seed=seed) for seed in (1, 1, 2))]
    assert bounds[0] == bounds[1] != bounds[2]


def test_corruptions_are_groups_of_their_own() -> None:
    targets = np.arange(90) % 3
    right, blind = beliefs(targets), beliefs(np.zeros(90, dtype=int))
    found = compared(right, right, targets, corrupted={"noise": (right, blind), "blur": (blind, blind)})
    corrupted = found.groups[found.groups["kind"] == "corruption"].set_index("value")
    assert corrupted["support"].tolist() == [90, 90]
    assert corrupted["difference"].to_dict() == {"noise": pytest.approx(-2 / 3), "blur": 0}
    *_, worst = judge_comparison(found, Promotion(), "version 1")
    assert worst.gate == "worst corruption: noise"
    assert not worst.passed


def test_a_metric_that_is_not_defined_has_no_bounds_and_never_passes() -> None:
    model = beliefs([0, 0, 1])
    found = compared(model, model, [0, 0, 0], metric="roc_auc")
    assert np.isnan([found.difference, found.low, found.high]).all()
    assert not judge_comparison(found, Promotion(), "version 1")[0].passed


def test_the_model_whose_predictions_do_not_fit_is_named() -> None:
    model = beliefs([0, 1, 2])
    with pytest.raises(BadInput, match="comparison, challenger: probabilities are"):
        compared(model, model[:2], [0, 1, 2])
    with pytest.raises(BadInput, match="comparison, champion under blur: values within"):
        compared(model, model, [0, 1, 2], corrupted={"blur": (np.log(model), model)})


def test_a_champion_that_answers_one_class_to_everything_is_not_best_at_it() -> None:
    targets = np.repeat([0, 1, 2], 40)
    collapsed = beliefs(np.zeros(120, dtype=np.int64))
    challenger = beliefs(np.where(np.arange(120) % 8 == 0, (targets + 1) % 3, targets))
    found = compared(collapsed, challenger, targets, bootstrap=50)
    classes = found.groups[found.groups["kind"] == "class"]
    assert (classes["difference"] > 0).all(), "though the champion finds all of the first class"
