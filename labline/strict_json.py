"""JSON that strict readers take: it has no NaN and no infinity."""

from __future__ import annotations

import math


def nan_to_null(document: object) -> object:
    """A nested document with NaN and infinity replaced by None: JSON has neither, and strict readers refuse them."""
    if isinstance(document, dict):
        return {key: nan_to_null(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [nan_to_null(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document
