"""The reference of a retrained version: production as it was then is what it is compared with, older tests are known.

A version that learned from drifted feedback was tested on the old test set and on the window that it was made for.
Production goes on like the window: against a mixture of both it would look drifted for ever. So the window's hold-out
is the reference, and what the version answers to the old test set is one more domain of `labline.monitoring.estimation`
whose accuracy is known: should the old days come back, that is drift without a loss.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.monitoring.shifts import FAMILY, SEVERITY
from labline.reference import Reference

FEWEST = 100  # rows of a window that are enough for a reference
FEWEST_KNOWN = 20  # and of what else is known, for one more domain
KNOWN = "tested-before"


def of_the_window(reference: Reference, new_N: npt.NDArray[np.bool_]) -> tuple[Reference, Reference | None]:
    """The part of the new window, and the rest where it is large enough to count; the whole for a small window."""
    if new_N.sum() < FEWEST:
        return reference, None
    return _rows(reference, new_N), _rows(reference, ~new_N) if (~new_N).sum() >= FEWEST_KNOWN else None


def with_known(shifted: Reference | None, known: Reference | None) -> Reference | None:
    """The shifted copies of a reference (`shifted_reference`), and beside them another part of it as it is."""
    if shifted is None or known is None:
        return shifted
    first = int(shifted.rows["sample_id"].max()) + 1  # resampled apart from the images of the copies
    rows = known.rows.assign(sample_id=first + np.arange(len(known.rows)))
    rows[FAMILY], rows[SEVERITY] = KNOWN, 1.0
    return Reference(
        rows=pd.concat([shifted.rows, rows[[name for name in shifted.rows if name in rows]]], ignore_index=True),
        outputs=np.concatenate([shifted.outputs, known.outputs]),
        embedding=_joined(shifted.embedding, known.embedding),
        features=shifted.features,
    )


def asked_at(id: str) -> float:
    """When a prediction was asked for, seconds since 1970: its id begins with a UUID version 7, and that with it."""
    return int(id[:12], 16) / 1000


def _joined(
    first_ND: npt.NDArray[np.float32] | None, second_ND: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32] | None:
    return None if first_ND is None or second_ND is None else np.concatenate([first_ND, second_ND])


def _rows(reference: Reference, chosen_N: npt.NDArray[np.bool_]) -> Reference:
    return replace(
        reference,
        rows=reference.rows[chosen_N].reset_index(drop=True),
        outputs=reference.outputs[chosen_N],
        embedding=None if reference.embedding is None else reference.embedding[chosen_N],
    )
