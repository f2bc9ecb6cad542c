"""Who may ask: the key, and the headers that keep a browser from doing more than it was asked to."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

AUTHENTICATE = "a key is needed: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
SECURE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
# Pages run their own scripts from here, load nothing from elsewhere, and are framed by nobody.
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
BEARER = b"bearer "


class Guard:
    """Compares what clients present with the key, in a time that does not tell how much of it was right.

    An empty key admits everyone: a service on loopback may be started so.
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    @property
    def asks(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._key)

    def admits(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request with these headers, lowercase names, may be answered."""
        if not self._key:
            return True
        presented = headers.get(b"authorization")
        if presented is None:
            return hmac.compare_digest(headers.get(b"x-api-key", b""), self._key)
        bearer = presented[: len(BEARER)].lower() == BEARER
        return bearer and hmac.compare_digest(presented[len(BEARER) :].strip(), self._key)
