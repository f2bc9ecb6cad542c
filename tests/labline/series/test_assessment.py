"""What a forecaster showed on its test split, and in which words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from labline.errors import BadInput
from labline.reference import open_reference, write_reference
from labline.series.assessment import (
    Assessment,
    against_rivals,
    assess,
    open_assessment,
    rows_after_training,
    verdict,
    write_assessment,
)
from labline.series.dataset import SeriesDataset, Windows, windows
from labline.series.declaration import Features
from labline.series.forecasting import ForecastSettings
from labline.series.model_card import series_model_card
from labline.series.profile import series_profile, series_reference
from labline.series.usecase import SeriesUseCase
from tests.labline.series.market import FEATURES, as_csv, make_prices, prepare

CHOICE = ForecastSettings()
FIGURES = {
    "test_qlike": 0.3,
    "har_qlike": 0.31,
    "garch_qlike": 0.4,
    "p_worse_than_har": 0.8,
    "p_better_than_garch": 0.01,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SeriesDataset:
    folder = tmp_path_factory.mktemp("market")
    return prepare(as_csv(make_prices(600), folder), folder / "data")


def oracle(later: Windows) -> npt.NDArray[np.float32]:
    """Forecasts that nearly know the target, where there is one."""
    targets = later.targets[later.indices] + np.random.default_rng(0).normal(0, 0.05, len(later)).astype(np.float32)
    return np.column_stack([np.nan_to_num(targets, nan=-2.0), np.full(len(targets), 0.01)]).astype(np.float32)


def test_forecasts_begin_after_training_and_hold_the_test_split(dataset: SeriesDataset) -> None:
    later = rows_after_training(dataset)
    split = dataset.manifest["split"].iloc[later.indices]
    assert set(split) == {"embargo", "validation", "test"}
    assert (
        dataset.manifest["timestamp"].iloc[later.indices].min()
        > dataset.manifest.query("split == 'train'")["timestamp"].max()
    )
    assert set(windows(dataset, "test").indices) <= set(later.indices)


def test_a_forecaster_that_knows_the_future_beats_everybody(dataset: SeriesDataset) -> None:
    later = rows_after_training(dataset)
    found, rivals = assess(dataset, later, oracle(later), CHOICE)
    assert rivals is not None
    assert found.metrics["qlike"] < 0.01 < found.metrics["har_qlike"]
    assert found.metrics["qlike"] == pytest.approx(rivals.figures["test_qlike"], rel=1e-3)
    assert found.metrics["p_worse_than_har"] > 0.99 and found.metrics["p_better_than_garch"] < 0.01
    low, high = found.intervals["qlike"]
    assert low <= found.metrics["qlike"] <= high
    assert found.verdict.startswith("The network earns its place")


def test_another_target_is_compared_with_nobody(tmp_path: Path) -> None:
    features = Features(**FEATURES.model_dump() | {"target": "value"})
    dataset = prepare(as_csv(make_prices(300), tmp_path), tmp_path / "data", features)
    later = rows_after_training(dataset)
    found, rivals = assess(dataset, later, oracle(later), ForecastSettings(target="value"))
    assert rivals is None and found.rivals.empty
    assert "the target is value" in found.verdict
    assert set(found.metrics) == {"mse", "pinball", "log_score"}


def test_several_entities_are_compared_with_nobody(tmp_path: Path) -> None:
    dataset = prepare(as_csv(make_prices(300, ("a", "b")), tmp_path), tmp_path / "data")
    later = rows_after_training(dataset)
    with pytest.raises(BadInput, match="one entity, and there are 2"):
        against_rivals(dataset, later, oracle(later), windows(dataset, "test"), CHOICE)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "The network earns its place"),
        ({"har_qlike": 0.29, "p_worse_than_har": 0.2}, "The network holds its place, and no more"),
        ({"p_worse_than_har": 0.01}, "does not earn its place: HAR forecasts better"),
        ({"p_better_than_garch": 0.3}, "does not earn its place: it is not shown to be better than GARCH(1,1)"),
    ],
)
def test_the_verdict_says_plainly_what_the_tests_say(changed: dict[str, float], said: str) -> None:
    assert said in verdict(FIGURES | changed)


def test_an_assessment_is_read_as_it_was_written(dataset: SeriesDataset, tmp_path: Path) -> None:
    later = rows_after_training(dataset)
    found, _ = assess(dataset, later, oracle(later), CHOICE)
    write_assessment(found, tmp_path / "evaluation.json")
    read = open_assessment(tmp_path / "evaluation.json")
    assert (read.metrics, read.intervals, read.verdict) == (found.metrics, found.intervals, found.verdict)
    pd.testing.assert_frame_equal(read.rivals, found.rivals, check_dtype=False)


def test_the_profile_counts_every_test_window_in_bins(dataset: SeriesDataset) -> None:
    later = rows_after_training(dataset)
    found, _ = assess(dataset, later, oracle(later), CHOICE)
    profile = json.loads(json.dumps(series_profile(dataset, later, oracle(later), found), allow_nan=False))
    assert profile["samples"] == found.samples
    for histogram in [*profile["inputs"].values(), *profile["predictions"].values(), profile["targets"]]:
        assert sum(histogram["counts"]) == found.samples
    assert list(profile["inputs"]) == list(FEATURES.inputs)
    assert profile["quality"]["qlike"]["value"] == found.metrics["qlike"]


def test_the_reference_sample_has_the_last_features_of_every_test_window(dataset: SeriesDataset) -> None:
    later, test = rows_after_training(dataset), windows(dataset, "test")
    found = series_reference(dataset, later, oracle(later), CHOICE)
    assert found.features == tuple(FEATURES.inputs)
    assert list(found.rows["sample_id"]) == list(dataset.manifest["sample_id"].iloc[test.indices])
    inputs_NTF, targets_N = test.batch(np.arange(len(test)))
    np.testing.assert_array_equal(found.rows[list(found.features)].to_numpy(), inputs_NTF[:, -1])
    np.testing.assert_array_equal(found.rows["target"], targets_N)
    np.testing.assert_array_equal(found.rows["answer"], found.outputs[:, 0], "the mean of a gaussian forecast")
    assert np.abs(found.rows["answer"] - found.rows["target"]).mean() < 0.1, "an oracle's answers, row by row"


def test_the_reference_sample_of_a_direction_names_the_classes(tmp_path: Path) -> None:
    features = Features(**FEATURES.model_dump() | {"target": "direction"})
    dataset = prepare(as_csv(make_prices(300), tmp_path), tmp_path / "data", features)
    later = rows_after_training(dataset)
    logits = np.random.default_rng(0).normal(0, 1, (len(later), 2)).astype(np.float32)
    rows = series_reference(dataset, later, logits, ForecastSettings(head="classes", target="direction")).rows
    assert set(rows["label"]) | set(rows["answer"]) == {"higher", "not higher"}
    assert rows["confidence"].between(0.5, 1).all()


def test_a_feature_that_is_called_like_a_column_of_ours_stands_beside_it(tmp_path: Path) -> None:
    prices = make_prices(300)
    features = Features(**FEATURES.model_dump() | {"inputs": ["target", "log-return(close)"]})
    data = as_csv(prices.assign(target=prices["volume"]), tmp_path)
    dataset = prepare(data, tmp_path / "data", features)
    later = rows_after_training(dataset)
    write_reference(series_reference(dataset, later, oracle(later), CHOICE), tmp_path / "reference.parquet")
    read = open_reference(tmp_path / "reference.parquet")
    assert read.features == ("feature(target)", "log-return(close)")
    assert read.rows["feature(target)"].min() >= 1000 and read.rows["target"].max() < 1


def test_the_model_card_tells_the_comparison_and_the_limits(dataset: SeriesDataset) -> None:
    later = rows_after_training(dataset)
    found, _ = assess(dataset, later, oracle(later), CHOICE)
    card = card_of(found)
    for told in ("## Verdict\nThe network earns its place", "| har |", "| ewma |", "kupiec p", "None declared"):
        assert told in card
    assert "`log-return(close)`" in card and "next 3 rows" in card


def card_of(found: Assessment) -> str:
    declared = {"name": "market", "title": "A market", "data": {"source": "sp500"}, "training": {"epochs": 1}}
    use_case = SeriesUseCase.model_validate(declared | {"features": FEATURES.model_dump()})
    candidates = pd.DataFrame({"name": ["fp32"], "metric": [0.3], "bytes": [1000]})
    return series_model_card(use_case, found, candidates, "fp32", {"test windows": found.samples}, {}, [], "qlike")
