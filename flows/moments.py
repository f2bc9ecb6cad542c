"""Moments as people write them on the command line."""

from __future__ import annotations

from datetime import datetime

from labline.errors import BadInput


def moment(flag: str, written: str) -> float:
    """Seconds since 1970 of a date such as 2026-11-24T14:30, in the time of this machine; else raises BadInput."""
    try:
        return datetime.fromisoformat(written).astimezone().timestamp()
    except ValueError:
        raise BadInput(f"{flag} {written}: expected a date such as 2026-11-24 or 2026-11-24T14:30") from None
