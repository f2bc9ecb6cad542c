"""What a candidate loses against fp32, and how surely."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.compression.candidates import Quality, most_lost

RIGHT = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


def classifier(right: list[bool]) -> Quality:
    return Quality({"accuracy": float(np.mean(right))}, np.array(right))


@given(RIGHT)
def test_an_error_is_that_of_differences_on_the_same_samples(pairs: list[tuple[bool, bool]]) -> None:
    float32, found = (classifier(list(right)) for right in zip(*pairs, strict=True))
    loss = most_lost(float32, found)
    only_float32 = sum(one and not other for one, other in pairs)
    only_found = sum(other and not one for one, other in pairs)
    samples = len(pairs)
    assert loss.lost == pytest.approx((only_float32 - only_found) / samples)
    variance = (only_float32 + only_found) / samples - loss.lost**2
    assert loss.error == pytest.approx((variance / samples) ** 0.5, abs=1e-9)


def test_the_same_decisions_lose_nothing_for_sure() -> None:
    right = classifier([True, False, True])
    assert most_lost(right, right).most == 0


def test_the_metric_that_suffers_most_is_named() -> None:
    loss = most_lost(Quality({"accuracy": 0.9, "roc_auc": 0.99}), Quality({"accuracy": 0.89, "roc_auc": 0.9}))
    assert (loss.of, loss.lost, loss.error) == ("roc_auc", pytest.approx(0.09), 0.0)
