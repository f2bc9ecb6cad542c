"""Measured performance: what labels say, whichever came back."""

from __future__ import annotations

import numpy as np
import pytest
from saved_reference import answers, window

from labline.evaluation import wilson_interval
from labline.monitoring.performance import performance
from labline.monitoring.samples import reference_samples, window_samples


def test_accuracy_is_that_of_the_labelled_with_wilsons_interval() -> None:
    reference, answered = answers(500, 0), answers(400, 1)
    seen = window_samples(window(answered, label_share=0.4), reference)
    found = performance(reference_samples(reference), seen)
    right = int((seen.labelled & seen.correct).sum())
    assert found.labelled == seen.labelled.sum()
    assert found.share == found.labelled / 400
    assert found.value == right / found.labelled
    assert (found.low, found.high) == wilson_interval(right, found.labelled)
    classes = found.groups[found.groups["group"] == "class"]
    assert classes["labelled"].sum() == found.labelled
    assert set(found.groups["group"]) == {"class", "mean", "std"}


def test_without_labels_there_is_no_figure() -> None:
    reference = answers(300, 0)
    found = performance(reference_samples(reference), window_samples(window(answers(100, 1)), reference))
    assert found.labelled == 0 and np.isnan(found.value)
    assert found.reference == pytest.approx((reference.rows["label"] == reference.rows["answer"]).mean())
