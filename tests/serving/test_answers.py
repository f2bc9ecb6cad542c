"""What clients are told of a model's outputs, head by head, against the forecaster's own arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from running_service import VOLATILITY
from small_models import series_model

from labline.packaged_model import PackagedModel
from labline.series.declaration import Head
from labline.series.forecaster import LEVELS, forecast_mean
from serving.answers import embeddings, say
from serving.limits import Refused

CLASSES = ("not higher", "higher")
ANSWERS = {
    "gaussian": [[0.5, 0.1], [-1.0, 2.0]],
    "quantile": [[-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0]],
    "point": [[0.25], [1e-9]],
    "classes": [[2.0, 0.0], [-1000.0, 1000.0]],
}


def forecaster(folder: Path, head: str) -> PackagedModel:
    model = series_model(folder, VOLATILITY.replace('head = "gaussian"', f'head = "{head}"'), window=20, features=2)
    labels = CLASSES if head == "classes" else ()
    return PackagedModel(model.folder, model.session, "series", model.input, model.outputs, labels, head)


@pytest.mark.parametrize("head", get_args(Head))
def test_each_head_in_its_own_words(tmp_path: Path, head: Head) -> None:
    answers = np.array(ANSWERS[head], np.float32)

    said = say(forecaster(tmp_path / head, head), answers)

    assert len(said) == len(answers)
    if head == "classes":
        assert said[0].answer == "not higher"
        assert said[0].shown["probabilities"] == pytest.approx(
            dict(zip(CLASSES, [0.8808, 0.1192], strict=True)), abs=1e-4
        )
        assert said[1].confidence == 1.0
        return
    means = (
        forecast_mean(torch.from_numpy(answers), head)
        if head != "quantile"
        else forecast_mean(torch.from_numpy(answers).double(), head, LEVELS)
    )
    for each, mean, row in zip(said, means.tolist(), answers.tolist(), strict=True):
        assert each.shown["forecast"]["mean"] == pytest.approx(mean)
        assert float(each.answer) == each.shown["forecast"]["mean"]
        assert each.outputs == row
        assert np.isnan(each.confidence)
    extra = {"gaussian": {"deviation": answers.tolist()[0][-1]}, "point": {}}
    if head == "quantile":
        extra[head] = {"quantiles": dict(zip(map(str, LEVELS), answers[0].tolist(), strict=True))}
    assert {name: value for name, value in said[0].shown["forecast"].items() if name != "mean"} == extra[head]


@pytest.mark.parametrize("head", get_args(Head))
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_no_answer(tmp_path: Path, head: Head, wrong: float) -> None:
    answers = np.array(ANSWERS[head], np.float32)
    answers[-1, 0] = wrong

    with pytest.raises(Refused, match="no finite answer"):
        say(forecaster(tmp_path / head, head), answers)


def test_embeddings_are_kept_as_float16() -> None:
    first, second = embeddings(np.array([[1, 2], [0.1, 1e6]], np.float32), 2)

    np.testing.assert_array_equal(np.frombuffer(first, "<f2"), [1, 2])
    np.testing.assert_array_equal(np.frombuffer(second, "<f2"), np.array([0.1, np.inf], np.float16))
    assert list(embeddings(None, 2)) == [b"", b""]
