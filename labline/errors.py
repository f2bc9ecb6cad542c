"""The one family of errors labline raises on purpose.

Each message says what is wrong, where, what was expected and what to do next;
the command line prints it without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LablineError(Exception):
    """Something labline understands went wrong: a stage failed for a known reason."""

    exit_code = 1


class BadInput(LablineError):
    """What the user handed in (declaration, data, flag, storage) cannot be used as it is."""

    exit_code = 2


class RefusedByGate(LablineError):
    """The model did not show what its declaration asks for."""

    exit_code = 3


class RejectedByPerson(RefusedByGate):
    """Its gates held, but whoever was asked said no."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A closing hint: the nearest valid name when one is close, all valid names otherwise."""
    choices = sorted(valid)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid names: {', '.join(choices)}"
