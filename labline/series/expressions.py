"""The small language of features: `log-return(close)`, `rolling-std(log-return(close), 20)`, `parkinson(5)`.

An expression is the name of a column, or a name of VOCABULARY with its arguments in parentheses. Every value an
expression has at a row comes from that row and earlier ones alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from labline.errors import BadInput, nearest

Argument = Literal["series", "rows"]

VOCABULARY: Mapping[str, tuple[Argument, ...]] = {
    "log": ("series",),
    "log-return": ("series",),  # log of this row's value over that of the row before
    "difference": ("series",),  # this row's value less that of the row before
    "absolute": ("series",),
    "square": ("series",),
    "lag": ("series", "rows"),  # the value so many rows earlier
    "rolling-mean": ("series", "rows"),  # over so many rows, this one the last
    "rolling-std": ("series", "rows"),
    "parkinson": ("rows",),  # annualized volatility over so many rows, from high and low
    "garman-klass": ("rows",),  # the same from open, high, low and close
}
RANGE_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "parkinson": ("high", "low"),
    "garman-klass": ("open", "high", "low", "close"),
}
LOGARITHMS = ("log", "log-return")
MOST_ROWS = 100_000
DEEPEST = 20  # nested calls: more is a slip, and would exhaust Python's stack
_TOKEN = re.compile(r"\s*(?:(?P<rows>\d+)|(?P<name>[^\W\d][\w-]*)|(?P<sign>[(),]))")


@dataclass(frozen=True)
class Column:
    """The values of a column as they are."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Call:
    """A word of VOCABULARY applied to a series, to a number of rows, or to both."""

    name: str
    series: Expression | None = None
    rows: int = 1

    def __str__(self) -> str:
        rows = [str(self.rows)] if "rows" in VOCABULARY[self.name] else []
        return f"{self.name}({', '.join(([] if self.series is None else [str(self.series)]) + rows)})"


Expression = Column | Call


@dataclass(frozen=True)
class _Token:
    kind: str  # rows | name | sign | end
    text: str
    position: int  # counted from 1


def parse(text: str) -> Expression:
    """Read an expression; raises BadInput naming the position, what was expected and the nearest valid name."""
    tokens = list(_tokens(text))
    expression, next_token = _expression(text, tokens, 0, 0)
    if tokens[next_token].kind != "end":
        raise _fault(text, tokens[next_token], "expected the end of the expression")
    return expression


def columns(expression: Expression) -> frozenset[str]:
    """The columns that an expression reads."""
    if isinstance(expression, Column):
        return frozenset({expression.name})
    own = frozenset(RANGE_COLUMNS.get(expression.name, ()))
    return own if expression.series is None else own | columns(expression.series)


def columns_under_logarithm(expression: Expression) -> frozenset[str]:
    """The columns whose own values an expression takes the logarithm of, and which must therefore be positive."""
    if isinstance(expression, Column):
        return frozenset()
    if expression.series is None:
        return columns(expression)
    inner = expression.series
    if expression.name in LOGARITHMS and isinstance(inner, Column):
        return frozenset({inner.name})
    return columns_under_logarithm(inner)


def history(expression: Expression) -> int:
    """How many rows before its own an expression reaches back."""
    if isinstance(expression, Column):
        return 0
    own = {"log-return": 1, "difference": 1, "lag": expression.rows}.get(expression.name, expression.rows - 1)
    return own + (0 if expression.series is None else history(expression.series))


def _tokens(text: str) -> Iterator[_Token]:
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            stray = len(text[position:]) - len(text[position:].lstrip()) + position
            raise _fault(text, _Token("stray", text[stray], stray + 1), "expected a name, a number, '(', ',' or ')'")
        yield _Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup) + 1)
        position = found.end()
    yield _Token("end", "", end + 1)


def _expression(text: str, tokens: list[_Token], start: int, depth: int) -> tuple[Expression, int]:
    """The expression that begins with token `start`, and the number of the token after it."""
    token = tokens[start]
    if token.kind != "name":
        raise _fault(text, token, "expected a column or a function")
    if depth > DEEPEST:
        raise _fault(text, token, f"more than {DEEPEST} functions inside each other; expected fewer")
    if tokens[start + 1].text != "(":
        if token.text in VOCABULARY:
            raise _fault(text, tokens[start + 1], f"expected its arguments: {_usage(token.text)}")
        return Column(token.text), start + 1
    if token.text not in VOCABULARY:
        raise _fault(text, token, f"there is no function of this name; {nearest(token.text, VOCABULARY)}")
    return _call(text, tokens, start, depth)


def _call(text: str, tokens: list[_Token], start: int, depth: int) -> tuple[Expression, int]:
    name, at = tokens[start].text, start + 2
    series: Expression | None = None
    rows = 1
    for number, argument in enumerate(VOCABULARY[name]):
        if number:
            at = _sign(text, tokens[at], ",", name) + at
        if argument == "series":
            series, at = _expression(text, tokens, at, depth + 1)
        else:
            rows, at = _rows(text, tokens[at], name), at + 1
    return Call(name, series, rows), _sign(text, tokens[at], ")", name) + at


def _sign(text: str, token: _Token, expected: str, name: str) -> int:
    if token.text != expected:
        raise _fault(text, token, f"expected {expected!r}: {_usage(name)}")
    return 1


def _rows(text: str, token: _Token, name: str) -> int:
    least = 2 if name == "rolling-std" else 1
    if token.kind != "rows" or not least <= int(token.text[:9]) <= MOST_ROWS:
        raise _fault(text, token, f"expected a number of rows from {least} to {MOST_ROWS}: {_usage(name)}")
    return int(token.text)


def _usage(name: str) -> str:
    return f"{name}({', '.join(VOCABULARY[name])})"


def _fault(text: str, token: _Token, problem: str) -> BadInput:
    found = f"at {token.text!r}" if token.text else "at the end"
    return BadInput(f"{text!r}, position {token.position}, {found}: {problem}")
