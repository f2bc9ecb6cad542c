"""Where the chronicle is: beside the ledger."""

from __future__ import annotations

import os

from labline.chronicle import Chronicle


def open_chronicle() -> Chronicle:
    """The chronicle in the database of the ledger."""
    return Chronicle(os.environ["LABLINE_LEDGER"])
