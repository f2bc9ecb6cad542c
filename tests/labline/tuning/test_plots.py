"""Pictures of a search: every kind of trial and of setting has its place in them."""

from __future__ import annotations

import math

from labline.tuning.declaration import Dimension
from labline.tuning.plots import history, importances, pareto, slices
from labline.tuning.study import Attempt

SPACE = {
    "training.learning_rate": Dimension(low=1e-4, high=1e-2, log=True),
    "augmentation.strength": Dimension(low=0.0, high=1.0),
    "augmentation.policy": Dimension(choices=[["flip"], ["flip", "noise"]]),
    "model.architecture": Dimension(choices=["cnn", "resnet"]),
}
DECLARED = {key: (dimension.choices or [0.005])[0] for key, dimension in SPACE.items()}


def attempt(index: int, state: str, metric: float, latency: float = math.nan) -> Attempt:
    settings = {"training.learning_rate": 1e-3, "augmentation.strength": 0.5, "augmentation.policy": ["flip", "noise"]}
    return Attempt(index, state, settings | {"model.architecture": "resnet"}, metric, latency, 4, 1.0, "", "")


ATTEMPTS = [
    attempt(0, "complete", 0.8, 2.0),
    attempt(1, "pruned", 0.4),
    attempt(2, "failed", math.nan),
    attempt(3, "complete", 0.9, 1.0),
]


def test_the_best_so_far_only_rises_and_is_marked() -> None:
    axes = history(ATTEMPTS, "accuracy", True, winner=3).axes[0]
    line = next(line for line in axes.lines if line.get_label() == "best so far")
    assert list(line.get_ydata()) == [0.8, 0.9]
    assert {text.get_text() for text in axes.get_legend().get_texts()} >= {"winner", "ended early", "the declaration"}


def test_of_a_loss_it_only_falls() -> None:
    axes = history(ATTEMPTS, "qlike", False, winner=0).axes[0]
    assert list(next(line for line in axes.lines if line.get_label() == "best so far").get_ydata()) == [0.8, 0.8]


def test_each_setting_has_a_panel_over_all_of_its_space() -> None:
    figure = slices(ATTEMPTS, SPACE, "accuracy", DECLARED, winner=3)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert panels.keys() == SPACE.keys()
    assert all(len(axes.collections) == 3 for axes in panels.values()), "the failed one has no place"
    low, high = panels["training.learning_rate"].get_xlim()
    assert low <= 1e-4 and high >= 1e-2
    assert [tick.get_text() for tick in panels["model.architecture"].get_xticklabels()] == ["cnn", "resnet"]
    figure.canvas.draw_idle()


def test_the_largest_share_stands_on_top() -> None:
    axes = importances({"a": 0.2, "b": 0.7, "c": 0.1}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.2, 0.7]


def test_the_front_joins_what_nothing_beats() -> None:
    axes = pareto([ATTEMPTS[0], ATTEMPTS[3]], "accuracy", True, winner=3).axes[0]
    assert list(axes.lines[0].get_xdata()) == [1.0]
