from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.errors import BadInput
from labline.series.expressions import (
    LOGARITHMS,
    VOCABULARY,
    Call,
    Column,
    Expression,
    columns,
    columns_under_logarithm,
    history,
    parse,
)


def test_an_expression_is_read_as_it_is_written() -> None:
    read = parse(" rolling-std( log-return(close),20 ) ")
    assert read == Call("rolling-std", Call("log-return", Column("close")), 20)
    assert str(read) == "rolling-std(log-return(close), 20)"
    assert columns(read) == {"close"} and history(read) == 20


def test_range_estimators_say_which_columns_they_read() -> None:
    assert columns(parse("log(garman-klass(22))")) == {"open", "high", "low", "close"}
    assert columns_under_logarithm(parse("rolling-mean(parkinson(5), 3)")) == {"high", "low"}
    assert history(parse("rolling-mean(parkinson(5), 3)")) == 4 + 2


def test_only_columns_directly_under_a_logarithm_must_be_positive() -> None:
    assert columns_under_logarithm(parse("lag(log(volume), 2)")) == {"volume"}
    assert columns_under_logarithm(parse("log(absolute(change))")) == frozenset()


@pytest.mark.parametrize(
    ("text", "position", "hint"),
    [
        ("log-retrun(close)", 1, "did you mean 'log-return'"),
        ("lag(close)", 10, r"expected ',': lag\(series, rows\)"),
        ("lag(close, 0)", 12, "a number of rows from 1 to"),
        ("lag(close, 99999999999)", 12, "a number of rows from 1 to"),
        ("rolling-std(close, 1)", 20, "a number of rows from 2 to"),
        ("log(close", 10, r"at the end: expected '\)'"),
        ("log(close))", 11, "expected the end of the expression"),
        ("parkinson", 10, r"expected its arguments: parkinson\(rows\)"),
        ("close + 1", 7, "expected a name, a number"),
        ("lag(5, 5)", 5, "expected a column or a function"),
        ("", 1, "expected a column or a function"),
        ("log(" * 5000, 85, "more than 20 functions inside each other"),
    ],
)
def test_a_mistake_is_named_with_its_position(text: str, position: int, hint: str) -> None:
    with pytest.raises(BadInput, match=rf"position {position}, .*{hint}"):
        parse(text)


def expressions() -> st.SearchStrategy[Expression]:
    def called(series: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        rows = st.integers(2, 50)
        alone = st.sampled_from([name for name, kinds in VOCABULARY.items() if kinds == ("series",)])
        rolling = st.sampled_from([name for name, kinds in VOCABULARY.items() if kinds == ("series", "rows")])
        return st.builds(Call, alone, series) | st.builds(Call, rolling, series, rows)

    return st.recursive(st.sampled_from([Column("close"), Column("volume")]), called, max_leaves=5)


@given(expressions())
def test_what_is_written_out_reads_the_same(expression: Expression) -> None:
    assert parse(str(expression)) == expression


@given(st.text(alphabet="log-returnclose(), 0123456789é_+", max_size=40))
def test_any_text_is_an_expression_or_bad_input(text: str) -> None:
    try:
        read = parse(text)
    except BadInput:
        return
    assert parse(str(read)) == read


def test_every_logarithm_is_in_the_vocabulary() -> None:
    assert set(LOGARITHMS) <= set(VOCABULARY)
