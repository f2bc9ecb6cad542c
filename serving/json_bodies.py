"""Reading JSON bodies."""

from __future__ import annotations

import orjson

from serving.limits import Refused


def read_json(body: bytes) -> object:
    """What a JSON body (RFC 8259, UTF-8) holds.

    Raises Refused (422, naming the place) where it is none: NaN, numbers that no float64 holds and nesting deeper than
    1024 count among that. Numbers above 2⁶⁴ come as floats.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(422, f"the body is no JSON: {error}") from None
