"""JSON that strict readers take: it has no NaN."""

from __future__ import annotations

import math


def nan_to_null(document: object) -> object:
    """A nested document with every NaN replaced by None: JSON has no NaN, and strict readers refuse it."""
    if isinstance(document, dict):
        return {key: nan_to_null(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [nan_to_null(value) for value in document]
    return None if isinstance(document, float) and math.isnan(document) else document
