"""Prediction drift: class shares and confidence against the reference."""

from __future__ import annotations

import numpy as np
from saved_reference import answers

from labline.monitoring.prediction_drift import prediction_drift
from labline.monitoring.samples import reference_samples


def test_the_same_classes_are_no_drift_and_a_class_that_vanished_is() -> None:
    reference, healthy = reference_samples(answers(800, 0)), reference_samples(answers(600, 1))
    assert prediction_drift(reference, healthy).p > 0.01
    without = healthy.taken(np.flatnonzero(healthy.answer != "good"))
    found = prediction_drift(reference, without)
    assert found.p < 1e-6
    assert found.classes.set_index("class")["window"]["good"] == 0
    assert found.classes["reference"].sum() == 1


def test_a_shift_of_confidence_has_a_size() -> None:
    reference = reference_samples(answers(800, 0))
    calm, shifted = (
        prediction_drift(reference, reference_samples(answers(600, 1, noise=noise))) for noise in (0.0, 0.5)
    )
    assert calm.confidence_ks < 0.1 < shifted.confidence_ks
    assert shifted.confidence < shifted.reference_confidence
