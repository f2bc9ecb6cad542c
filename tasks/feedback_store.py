"""The feedback store, at the address that the environment names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labline.errors import LablineError

if TYPE_CHECKING:
    from labline.feedback import FeedbackStore


@contextmanager
def opened_feedback() -> Iterator[FeedbackStore]:
    """The feedback store; raises LablineError in its own words where it cannot be reached."""
    from sqlalchemy.exc import SQLAlchemyError

    from labline.feedback import FeedbackStore

    store = FeedbackStore(os.environ["LABLINE_FEEDBACK"])
    try:
        yield store
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise LablineError(f"the feedback store (LABLINE_FEEDBACK) cannot be used: {reason}") from error
    finally:
        store.close()
