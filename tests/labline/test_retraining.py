"""The rules of retraining, as somebody who declares them would try them."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from labline.retraining import NEW, OLD, PART, Attempt, Outcome, choose_feedback, judge_parts, objection, part_of, side
from labline.retraining_declaration import Retraining

RULES = Retraining(cooldown_hours=24, budget=3, patience=2, fewest=10, most=1000)
HOUR, DAY = 3600.0, 86_400.0
NOW = 1_800_000_000.0


def attempt(outcome: Outcome, hours_ago: float, champion: str = "1") -> Attempt:
    return Attempt(f"{outcome}-{hours_ago}", "steel", champion, "drift", NOW - hours_ago * HOUR, 0, NOW, outcome)


def test_the_first_retraining_may_be_tried() -> None:
    assert objection([], RULES, "1", NOW) is None


def test_two_retrainings_are_a_cool_down_apart() -> None:
    refused = objection([attempt("promoted", 5)], RULES, "2", NOW)
    assert refused is not None
    assert "5.0 hours ago" in refused.reason and "cooldown_hours is 24" in refused.reason
    assert objection([attempt("promoted", 25)], RULES, "2", NOW) is None


def test_what_cost_no_training_needs_no_cool_down() -> None:
    assert objection([attempt("nothing", 1), attempt("abandoned", 2)], RULES, "1", NOW) is None


def test_more_than_the_budget_is_not_spent() -> None:
    spent = [attempt("promoted", 24 * days, str(days)) for days in (2, 12, 22)]
    refused = objection(spent, RULES, "9", NOW)
    assert refused is not None and "budget is 3" in refused.reason
    assert objection([*spent[:2], attempt("promoted", 24 * 31)], RULES, "9", NOW) is None, "31 days are long ago"


def test_refused_challengers_in_a_row_are_the_end() -> None:
    refused = [attempt("refused", 100), attempt("refused", 50)]
    stopped = objection(refused, RULES, "1", NOW)
    assert stopped is not None and stopped.exhausted
    assert "2 challengers of version 1 in a row were refused" in stopped.reason
    assert objection(refused, RULES, "2", NOW) is None, "another Production begins anew"
    generous = RULES.model_copy(update={"budget": 9})
    assert objection([*refused, attempt("promoted", 30)], generous, "1", NOW) is None


@given(st.text(alphabet="0123456789abcdef", min_size=40, max_size=40))
def test_a_prediction_always_stands_on_the_same_side(id: str) -> None:
    assert side(id, RULES, True) == side(id, RULES, True)
    assert side(id, RULES, False) in ("train", "validation"), "what may not test never tests"


def test_sides_are_drawn_in_the_declared_shares() -> None:
    drawn = pd.Series([side(str(number), RULES, True) for number in range(4000)]).value_counts(normalize=True)
    assert drawn["test"] == pytest.approx(RULES.hold_out, abs=0.03)
    assert drawn["validation"] == pytest.approx(RULES.validation, abs=0.03)


def window(**columns: list[object]) -> pd.DataFrame:
    """Labelled predictions, one a second, the last just now."""
    rows = len(next(iter(columns.values())))
    usual = {
        "id": [f"{number:040x}" for number in range(rows)],
        "label": ["good"] * rows,
        "label_source": ["operator"] * rows,
    }
    return pd.DataFrame({"at": [NOW - rows + number for number in range(rows)], **usual, **columns})


def chosen(rows: pd.DataFrame, rules: Retraining = RULES, since: float = 0.0, **known: str) -> dict[str, str]:
    """The side of each prediction that joins."""
    found = choose_feedback(rows, rows["id"], ["good", "bad"], rules, since, NOW, known)  # type: ignore[arg-type]
    assert len(found.rows) + len(found.left_out) == rows["label"].notna().sum(), "nothing is lost without a reason"
    return dict(zip(found.rows["id"], found.rows["split"], strict=True))


def test_all_that_is_labelled_joins_with_a_hold_out() -> None:
    sides = chosen(window(label=["good"] * 200))
    assert len(sides) == 200
    assert set(sides.values()) == {"train", "validation", "test"}


def test_what_has_no_label_stays_out() -> None:
    assert len(chosen(window(label=["good", None, "bad"]))) == 2


def test_a_label_that_the_champion_does_not_know_is_left_out_with_the_reason() -> None:
    rows = window(label=["good", "strange"])
    found = choose_feedback(rows, rows["id"], ["good", "bad"], RULES, 0, NOW, {})
    assert found.left_out["reason"].tolist() == ["not a class of the champion"]


def test_a_prediction_without_its_input_is_left_out() -> None:
    rows = window(label=["good", "good"])
    found = choose_feedback(rows, rows["id"][:1], ["good"], RULES, 0, NOW, {})
    assert found.left_out["reason"].tolist() == ["its input is not kept"]


def test_old_feedback_is_forgotten_as_declared() -> None:
    rows = window(at=[NOW - 10 * DAY, NOW - DAY])
    assert len(chosen(rows, RULES.model_copy(update={"max_age_days": 5}))) == 1


def test_with_a_short_memory_only_the_window_joins() -> None:
    rows = window(at=[NOW - 10 * DAY, NOW - DAY])
    assert len(chosen(rows, since=NOW - 2 * DAY)) == 2
    assert len(chosen(rows, RULES.model_copy(update={"memory": "window"}), since=NOW - 2 * DAY)) == 1


def test_of_too_many_the_latest_join() -> None:
    rows = window(label=["good"] * 30)
    assert sorted(chosen(rows, RULES.model_copy(update={"most": 10}))) == sorted(rows["id"].tail(10))


def test_only_the_window_is_held_out_from() -> None:
    sides = chosen(window(label=["good"] * 200), since=NOW - 50)
    before = list(sides.values())[:150]
    assert "test" not in before and "test" in sides.values()


def test_answers_to_the_review_queue_train_and_never_test() -> None:
    sides = chosen(window(label_source=["review"] * 200))
    assert set(sides.values()) == {"train", "validation"}


def test_what_the_champion_knows_keeps_its_side() -> None:
    rows = window(label=["good"] * 50)
    known = dict.fromkeys(rows["id"], "test")
    assert set(chosen(rows, **known).values()) == {"test"}
    assert choose_feedback(rows, rows["id"], ["good"], RULES, 0, NOW, known).fresh == 0


def groups(old: float, new: float, support: int = 100) -> pd.DataFrame:
    """How much better a challenger is on each part."""
    rows = [(PART, OLD, support, 0.9, 0.9 + old, old), (PART, NEW, support, 0.6, 0.6 + new, new)]
    return pd.DataFrame(rows, columns=["kind", "value", "support", "champion", "challenger", "difference"])


@pytest.mark.parametrize(
    ("old", "new", "passed"),
    [(0.0, 0.2, [True, True]), (-0.02, 0.2, [True, True]), (-0.03, 0.2, [False, True]), (0.1, -0.01, [True, False])],
)
def test_the_old_test_set_may_lose_a_little_and_the_new_window_nothing(
    old: float, new: float, passed: list[bool]
) -> None:
    judged = judge_parts(groups(old, new), RULES, 20, "version 1")
    assert [each.passed for each in judged] == passed
    assert "against 0.9 of version 1 on 100 images" in judged[0].note


def test_a_part_of_a_few_images_is_not_judged() -> None:
    assert judge_parts(groups(-0.5, -0.5, support=19), RULES, 20, "version 1") == []


def test_what_the_champion_was_tested_on_is_the_old_test_set() -> None:
    assert part_of(pd.Series([True, False]).to_numpy()) == [OLD, NEW]


def test_something_has_to_be_left_to_learn_from() -> None:
    with pytest.raises(ValidationError, match="hold_out \\+ validation must be below 1"):
        Retraining(hold_out=0.6, validation=0.4)
