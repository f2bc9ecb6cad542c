"""Which predictions a person is asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saved_feedback import KEY, forecast, label, prediction

from labline.familiarity import Familiar
from labline.feedback import FeedbackStore, Label, Prediction, new_id
from labline.review import BY_LOT, KEPT_APART, Pick, lot, pick, spread_out

CLASSES = ("scratches", "crazing", "patches")
KNOWN = {"3": Familiar(CLASSES, {"mean": (90.0, 140.0)})}


@pytest.fixture
def store(tmp_path: Path) -> FeedbackStore:
    return FeedbackStore(f"sqlite:///{tmp_path}/feedback.db")


def ranked_id() -> str:
    """An id that is not kept for drawing by lot."""
    return next(id for id in iter(lambda: new_id(KEY), None) if lot(id) >= KEPT_APART)


def answered(*probabilities: float, **facts: Any) -> Prediction:
    best = int(np.argmax(probabilities))
    facts = {"id": ranked_id(), "answer": CLASSES[best], "confidence": probabilities[best], **facts}
    return prediction(outputs=probabilities, **facts)


def picked(store: FeedbackStore, *records: Prediction | Label, count: int = 10) -> tuple[Pick, ...]:
    store.write(records)
    return pick(store.window("steel"), store.window("steel", role=("shadow",)), KNOWN, count)


def test_the_doubtful_comes_before_the_sure_and_says_between_what(store: FeedbackStore) -> None:
    sure, doubtful = answered(0.98, 0.01, 0.01), answered(0.40, 0.39, 0.21)

    first, second = picked(store, sure, doubtful)

    assert (first.id, first.reasons) == (doubtful.id, ("uncertain: 0.40 scratches / 0.39 crazing",))
    assert (second.id, second.reasons) == (sure.id, ("nothing stands out",))
    assert first.source == second.source == "review"


def test_what_the_shadow_disputes_is_named(store: FeedbackStore) -> None:
    disputed, agreed = answered(0.9, 0.05, 0.05), answered(0.9, 0.05, 0.05)
    shadows = [
        prediction(version="4", role="shadow", answer=answer, shadow_of=of.id)
        for of, answer in ((disputed, "patches"), (agreed, "scratches"))
    ]

    first, second = picked(store, disputed, agreed, *shadows)

    assert (first.id, first.reasons) == (disputed.id, ("version 4 in shadow says patches",))
    assert second.reasons == ("nothing stands out",)


def test_what_is_unlike_the_reference_is_named(store: FeedbackStore) -> None:
    usual, strange = (answered(0.98, 0.01, 0.01, features={"mean": mean}) for mean in (120.0, 212.0))

    first, _ = picked(store, usual, strange)

    assert (first.id, first.reasons) == (strange.id, ("unlike the reference: mean 212, usually 90 to 140",))


def test_several_reasons_add_up(store: FeedbackStore) -> None:
    both = answered(0.45, 0.40, 0.15, features={"mean": 212.0})
    one = answered(0.45, 0.40, 0.15, features={"mean": 120.0})

    first, second = picked(store, one, both)

    assert first.id == both.id and len(first.reasons) == 2 and first.worth > second.worth


def test_what_has_a_label_is_not_asked_for_again(store: FeedbackStore) -> None:
    told, open_ = answered(0.4, 0.39, 0.21), answered(0.9, 0.05, 0.05)
    assert [each.id for each in picked(store, told, open_, label(told))] == [open_.id]


def test_near_copies_wait_until_the_others_were_shown(store: FeedbackStore) -> None:
    copies = [answered(0.40, 0.39, 0.21, features={"mean": 120.0, "std": 30.0}) for _ in range(50)]
    others = [answered(0.70, 0.29, 0.01, features={"mean": 100.0 + 5 * i, "std": 20.0 + i}) for i in range(5)]

    found = [each.id for each in picked(store, *copies, *others, count=6)]

    assert found[0] in {each.id for each in copies}
    assert set(found[1:]) == {each.id for each in others}


def test_embeddings_tell_copies_where_features_do_not(store: FeedbackStore) -> None:
    def seen(direction: int) -> bytes:
        return np.eye(4, dtype="<f2")[direction].tobytes()

    copies = [answered(0.40, 0.39, 0.21, embedding=seen(0)) for _ in range(10)]
    others = [answered(0.70, 0.29, 0.01, embedding=seen(direction)) for direction in (1, 2)]

    found = [each.id for each in picked(store, *copies, *others, count=3)]

    assert set(found[1:]) == {each.id for each in others}


def test_one_in_five_is_drawn_by_lot_from_those_that_are_never_ranked(store: FeedbackStore) -> None:
    found = picked(store, *(prediction() for _ in range(600)), count=50)

    by_lot = [each for each in found if each.source == BY_LOT]
    assert len(found) == len({each.id for each in found}) == 50
    assert len(by_lot) == 10
    assert all(lot(each.id) < KEPT_APART for each in by_lot)
    assert all(lot(each.id) >= KEPT_APART for each in found if each.source != BY_LOT)
    assert {place // 10 for place, each in enumerate(found) if each.source == BY_LOT} == set(range(5)), "spread evenly"


def test_the_lot_is_blind_to_what_was_answered(store: FeedbackStore) -> None:
    """Accuracy over labels by lot is that of the traffic, although the ranked ones are nearly all wrong."""
    generator = np.random.default_rng(0)
    rows, wrong = [], {}
    for at in range(4000):
        doubtful = bool(generator.random() < 0.2)
        one = prediction(at=float(at), outputs=(0.4, 0.39, 0.21) if doubtful else (0.98, 0.01, 0.01))
        rows.append(one)
        wrong[one.id] = doubtful
    found = picked(store, *rows, count=1000)

    by_lot = [wrong[each.id] for each in found if each.source == BY_LOT]
    ranked = [wrong[each.id] for each in found if each.source != BY_LOT]

    assert len(by_lot) == 200
    assert np.mean(by_lot) == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 200))
    assert np.mean(ranked) > 0.5


def test_forecasts_are_ranked_by_what_they_were_made_of(store: FeedbackStore) -> None:
    usual, strange = (forecast("steel", id=ranked_id(), features={"mean": mean}) for mean in (120.0, 300.0))

    first, second = picked(store, usual, strange)

    assert first.id == strange.id and first.reasons[0].startswith("unlike the reference: mean 300")
    assert second.reasons == ("nothing stands out",)


def test_a_version_that_is_not_known_still_has_a_queue(store: FeedbackStore) -> None:
    doubtful = answered(0.40, 0.39, 0.21, version="9")
    (found,) = picked(store, doubtful)
    assert found.reasons == ("uncertain: 0.40 scratches / 0.39 the next",)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 1000))
def test_as_many_as_asked_for_and_none_twice(rows: int, count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": [new_id(KEY) for _ in range(rows)],
            "version": generator.choice(["1", "2"], rows),
            "answer": "a",
            "confidence": generator.choice([0.6, np.nan], rows),
            "outputs": [[0.6, 0.4]] * rows,
            "embedding": [generator.choice([b"", b"\0\0\0\0", b"\0\x7c\0\0"]) for _ in range(rows)],
            "label": None,
            "mean": generator.choice([1.0, np.nan, np.inf], rows),
            "std": np.nan,
        }
    )
    shadows = pd.DataFrame({"shadow_of": [], "version": [], "answer": []})

    found = pick(frame, shadows, {"1": Familiar(("a", "b"), {"mean": (0.0, 0.0)})}, count)

    assert len(found) == len({each.id for each in found}) == min(rows, count)
    assert all(0 <= each.worth <= 1 and each.reasons for each in found)


def test_spreading_out_takes_the_worthiest_first() -> None:
    worth_N = np.array([0.2, 0.9, 0.9, 0.5])
    position_ND = np.array([[0.0], [1.0], [1.0], [5.0]])
    assert spread_out(worth_N, position_ND, 4) == [1, 3, 0, 2]
