"""The chronicle on both databases: everything is written once, whoever writes it twice."""

from __future__ import annotations

from dataclasses import replace

from labline.chronicle import Chronicle, Told
from labline.retraining import Attempt

TOLD = Told("a" * 64, "steel", "3", 100.0, "retrain", {"reasons": ["it got worse"], "figures": {"measured": None}})
ATTEMPT = Attempt("first", "steel", "3", "it got worse", 100.0, 10.0, 90.0)


def test_a_verdict_is_kept_once(feedback_address: str) -> None:
    chronicle = Chronicle(feedback_address)
    assert chronicle.tell(TOLD) == TOLD
    assert chronicle.tell(replace(TOLD, at=200.0)) == TOLD, "the first one stands"
    chronicle.tell(replace(TOLD, id="b" * 64, at=50.0, usecase="other"))
    assert chronicle.verdicts("steel") == [TOLD]
    chronicle.close()


def test_what_became_of_a_verdict_is_remembered_by_another_process(feedback_address: str) -> None:
    Chronicle(feedback_address).tell(TOLD)
    Chronicle(feedback_address).logged(TOLD.id, "run")
    Chronicle(feedback_address).announced(TOLD.id, 101.0)
    assert Chronicle(feedback_address).verdict(TOLD.id) == replace(TOLD, run_id="run", announced=101.0)
    assert Chronicle(feedback_address).verdict("unheard of") is None


def test_an_attempt_changes_until_it_ends(feedback_address: str) -> None:
    chronicle = Chronicle(feedback_address)
    chronicle.begin(ATTEMPT)
    chronicle.begin(ATTEMPT)
    again = chronicle.change(ATTEMPT, tries=2)
    ended = chronicle.change(again, outcome="promoted", version="4")
    assert chronicle.attempts("steel") == [ended] == [replace(ATTEMPT, tries=2, outcome="promoted", version="4")]
    chronicle.close()
