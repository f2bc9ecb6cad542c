"""A forecaster before its test rows: which windows count against a champion, and what makes two comparable."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from saved_forecasters import FEATURES, WINDOW, save_forecaster, small_forecaster

from labline.declaration import as_toml
from labline.errors import BadInput
from labline.series.dataset import SeriesDataset, windows
from labline.series.declaration import Features
from labline.series.export import export_forecaster
from labline.series.usecase import SeriesUseCase
from tasks.series.examination import ForecasterExamination
from tasks.version import Version
from tests.labline.series.market import as_csv, make_prices, prepare

DECLARED = Features(
    inputs=["close", "log-return(close)", "parkinson(3)"], window=WINDOW, horizon=2, target="realized-volatility"
)


def declare(features: Features = DECLARED) -> SeriesUseCase:
    sections = {"data": {"source": "sp500"}, "features": features.model_dump(), "training": {"epochs": 1}}
    return SeriesUseCase.model_validate({"name": "small", "title": "Small", "modality": "series", **sections})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SeriesDataset:
    folder = tmp_path_factory.mktemp("data")
    return prepare(as_csv(make_prices(400, ("north", "south")), folder), folder / "series", DECLARED)


@pytest.fixture(scope="module")
def version(data: SeriesDataset, tmp_path_factory: pytest.TempPathFactory) -> Version:
    scratch = tmp_path_factory.mktemp("version")
    graph = export_forecaster(small_forecaster(), scratch / "model.onnx", WINDOW, FEATURES)
    folder = save_forecaster(graph, scratch / "version", np.zeros((2, WINDOW, FEATURES), np.float32))
    return with_files(Version("small", "1", "", {}, folder), declare(), data.manifest)


def with_files(version: Version, declaration: SeriesUseCase, manifest: pd.DataFrame) -> Version:
    (version.extra / "usecase.toml").write_text(as_toml(declaration))
    manifest[["sample_id", "timestamp", "split"]].to_parquet(version.extra / "manifest.parquet")
    return version


def another(version: Version, folder: Path, declaration: SeriesUseCase, manifest: pd.DataFrame) -> Version:
    """The same network as a version of another declaration, trained on other rows."""
    (folder / "extra_files").mkdir()
    for name in ("MLmodel", "model.onnx"):
        shutil.copy(version.folder / name, folder)
    return with_files(replace(version, number="2", folder=folder), declaration, manifest)


def test_a_forecaster_is_as_good_as_itself_on_every_test_window(version: Version, data: SeriesDataset) -> None:
    examined = ForecasterExamination(version, declare(), data)
    found = examined.compare(version)
    assert (found.metric, found.difference, found.low, found.high) == ("qlike", 0, 0, 0)
    assert found.samples == len(windows(data, "test"))
    assert found.groups["value"].tolist() == ["north", "south"]
    assert all(row.passed for row in examined.judge(version))
    assert examined.samples(5).shape == (5, WINDOW, FEATURES)
    assert np.isfinite(list(examined.figures()[0].values())).all()


def test_what_the_champion_was_trained_on_does_not_count(version: Version, data: SeriesDataset, tmp_path: Path) -> None:
    test = windows(data, "test")
    moments = data.manifest["timestamp"].iloc[test.indices]
    middle = moments.sort_values().iloc[len(moments) // 2]
    split = data.manifest["split"].where(data.manifest["timestamp"] > middle, "embargo")
    champion = another(version, tmp_path, declare(), data.manifest.assign(split=split))
    found = ForecasterExamination(version, declare(), data).compare(champion)
    assert found.samples == int((moments > middle).sum()) < len(test)


def test_a_champion_that_saw_everything_cannot_be_compared_with(
    version: Version, data: SeriesDataset, tmp_path: Path
) -> None:
    champion = another(version, tmp_path, declare(), data.manifest.assign(split="train"))
    with pytest.raises(BadInput, match=r"version 2 was trained until 2021-.*no test window after that"):
        ForecasterExamination(version, declare(), data).compare(champion)


@pytest.mark.parametrize(
    ("change", "comparable"),
    [
        ({"inputs": ["close", "lag(close, 1)", "parkinson(3)"]}, True),
        ({"horizon": 3}, False),
        ({"target": "value"}, False),
        ({"price": "open"}, False),
    ],
)
def test_what_is_forecast_decides_what_can_be_compared(
    version: Version, data: SeriesDataset, tmp_path: Path, change: dict[str, object], comparable: bool
) -> None:
    other = another(version, tmp_path, declare(DECLARED.model_copy(update=change)), data.manifest)
    assert other.signature != version.signature, "the tensors are alike, what they stand for is not"
    assert ForecasterExamination(version, declare(), data).comparable(other) == comparable
