"""Where versions stand: promotion, rollback, archive, and what was done by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.errors import BadInput
from labline.standing import Seen, Stage, Standing, archived, differences, obeyed, promoted, rolled_back

VERSIONS = [str(number) for number in range(1, 6)]
STAGES: list[Stage] = ["None", "Staging", "Production", "Archived"]


def shown(standing: Standing, versions: list[str] = VERSIONS, has_stages: bool = True) -> Seen:
    """A registry that says exactly what the standing says."""
    stages: dict[str, Stage] = {v: standing.stage_of(v) if has_stages else "None" for v in versions}
    return Seen(stages, standing.aliases(), has_stages=has_stages)


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    """Any standing that moves can lead to."""
    standing = Standing()
    for version, move in draw(
        st.lists(st.tuples(st.sampled_from(VERSIONS), st.sampled_from(["s", "p", "r", "a"])), max_size=12)
    ):
        try:
            if move == "r":
                standing = rolled_back(standing)
            elif move == "a":
                standing = archived(standing, version)
            else:
                standing = promoted(standing, version, "Staging" if move == "s" else "Production")
        except BadInput:
            continue
    return standing


def test_a_version_climbs_and_displaces_whoever_was_there() -> None:
    first = promoted(promoted(Standing(), "1", "Staging"), "1", "Production")
    assert (first.production, first.staging, first.previous) == ("1", None, None)
    second = promoted(first, "2", "Production")
    assert second.production == "2"
    assert second.previous == "1"
    assert second.stage_of("1") == "Archived"


def test_rollbacks_go_back_step_by_step() -> None:
    standing = Standing()
    for version in ("1", "2", "3"):
        standing = promoted(standing, version, "Production")
    back = rolled_back(standing)
    assert (back.production, back.previous, back.stage_of("3")) == ("2", "1", "Archived")
    assert rolled_back(back).production == "1"
    with pytest.raises(BadInput, match="no earlier Production version"):
        rolled_back(rolled_back(back))


def test_an_archived_version_is_not_rolled_back_to() -> None:
    standing = promoted(promoted(Standing(), "1", "Production"), "2", "Production")
    assert archived(standing, "1").previous is None
    assert archived(standing, "2").production is None


def test_production_cannot_enter_staging() -> None:
    with pytest.raises(BadInput, match="in Production"):
        promoted(promoted(Standing(), "1", "Production"), "1", "Staging")


@given(standings())
def test_what_is_shown_as_it_is_changes_nothing(standing: Standing) -> None:
    assert obeyed(standing, shown(standing)) == standing
    assert not differences(standing, shown(standing))
    assert Standing.from_json(standing.as_json()) == standing


@given(standings(), st.sampled_from(VERSIONS))
def test_a_stage_set_by_hand_is_obeyed(standing: Standing, version: str) -> None:
    seen = shown(standing)
    by_hand = Seen({**seen.stages, version: "Production"}, seen.aliases, {version: 1})
    assert obeyed(standing, by_hand).production == version


@given(standings(), st.sampled_from(VERSIONS), st.booleans())
def test_an_alias_set_by_hand_is_obeyed_with_stages_and_without(
    standing: Standing, version: str, has_stages: bool
) -> None:
    seen = shown(standing, has_stages=has_stages)
    by_hand = Seen(seen.stages, {**seen.aliases, "production": version}, has_stages=has_stages)
    after = obeyed(standing, by_hand)
    assert after.production == version
    if standing.production not in (None, version) and version != standing.previous:
        assert after.previous == standing.production


@given(
    standings(),
    st.dictionaries(st.sampled_from(VERSIONS), st.sampled_from(STAGES)),
    st.booleans(),
    st.dictionaries(st.sampled_from(["production", "staging", "previous"]), st.sampled_from(VERSIONS)),
)
def test_whatever_is_shown_the_outcome_is_sound(
    expected: Standing, stages: dict[str, Stage], has_stages: bool, aliases: dict[str, str]
) -> None:
    after = obeyed(expected, Seen(stages, aliases, has_stages=has_stages))
    assert after.production is None or after.production != after.staging
    assert after.previous != after.production or after.previous is None
    assert after.named <= set(stages), "only versions that exist are named"
    assert obeyed(after, shown(after, list(stages), has_stages)) == after, "what was mended needs no mending"


def test_taken_out_of_production_by_hand() -> None:
    standing = promoted(promoted(Standing(), "1", "Production"), "2", "Production")
    seen = Seen({"1": "Archived", "2": "Archived"}, standing.aliases())
    after = obeyed(standing, seen)
    assert after.production is None
    assert after.previous == "1"


def test_an_alias_that_is_gone_is_restored_where_the_stage_still_says_it() -> None:
    standing = promoted(Standing(), "1", "Production")
    assert obeyed(standing, Seen({"1": "Production"}, {})).production == "1"
    assert obeyed(standing, Seen({"1": "None"}, {}, has_stages=False)).production is None


def test_a_deleted_version_is_forgotten() -> None:
    standing = promoted(promoted(Standing(), "1", "Production"), "2", "Production")
    after = obeyed(standing, Seen({"1": "Archived"}, {"production": "2", "previous": "1"}))
    assert after.production is None
    assert after.previous == "1"
