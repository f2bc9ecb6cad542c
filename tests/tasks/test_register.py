"""Registering: what stands in the registry's description column, which is not endless."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.register import shortened

sections = st.lists(st.text(alphabet="abc \n", max_size=300), max_size=8)


def card(texts: list[str]) -> str:
    return "# Model card: steel" + "".join(f"\n\n## Section {n}\n{text}" for n, text in enumerate(texts))


@given(sections)
def test_a_card_that_fits_stays_as_it_is(texts: list[str]) -> None:
    whole = card(texts)
    assert shortened(whole, most=len(whole)) == whole


@given(sections, st.integers(200, 1000))
def test_a_long_card_keeps_whole_sections_and_says_where_the_others_are(texts: list[str], most: int) -> None:
    whole = card(texts)
    short = shortened(whole, most)
    assert len(short) <= most
    if short != whole:
        kept = short[: short.index("\n\nThe sections left out")]
        assert "`model_card.md`" in short
        assert whole.startswith(kept + "\n\n## ")
