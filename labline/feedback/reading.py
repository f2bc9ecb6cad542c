"""Reading windows out of the store, fast enough for 100,000 predictions at a time.

Shape legend: N predictions, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

from labline.feedback.records import Role
from labline.feedback.tables import inputs, labels, predictions

if TYPE_CHECKING:
    import pandas as pd

LATEST_LAST = (labels.c.at, labels.c.received, labels.c.id)
NEWEST_FIRST = (predictions.c.at.desc(), predictions.c.id.desc())
HAS_LABEL = select(labels.c.id).where(labels.c.prediction == predictions.c.id).exists()
HAS_INPUT = select(inputs.c.prediction).where(inputs.c.prediction == predictions.c.id).exists()
TEXTS = ("version", "role", "answer", "source")


def window(connection: Connection, chosen: Sequence[ColumnElement[bool]], last: int | None) -> pd.DataFrame:
    """The chosen predictions with their latest label, oldest first: see `FeedbackStore.window`."""
    newest = select(predictions).where(*chosen).order_by(*NEWEST_FIRST)
    if last is not None:
        newest = newest.limit(last)
    return _frame(connection, newest)


def counts(connection: Connection, usecase: str, answered: Sequence[Role]) -> dict[str, Any]:
    """The fields of `Counts`."""
    ours = (predictions.c.usecase == usecase, predictions.c.role.in_(answered))
    shadows = (predictions.c.usecase == usecase, predictions.c.role == "shadow")
    found = func.count().label("found"), func.min(predictions.c.at), func.max(predictions.c.at)
    count, oldest, newest = connection.execute(select(*found).where(*ours)).one()
    by_version = select(predictions.c.version, func.count()).where(*ours).group_by(predictions.c.version)
    return {
        "predictions": count,
        "shadows": _count(connection, *shadows),
        "labelled": _count(connection, *ours, HAS_LABEL),
        "inputs": _count(connection, *ours, HAS_INPUT),
        "oldest": math.nan if oldest is None else oldest,
        "newest": math.nan if newest is None else newest,
        "versions": {version: int(count) for version, count in sorted(connection.execute(by_version).tuples())},
    }


def _count(connection: Connection, *chosen: ColumnElement[bool]) -> int:
    return connection.scalar(select(func.count()).select_from(predictions).where(*chosen)) or 0


def _frame(connection: Connection, newest: Select[Any]) -> pd.DataFrame:
    """One row a prediction, oldest first, of a statement that selects them newest first."""
    import pandas as pd

    rows = connection.execute(newest).all()[::-1]
    chosen = newest.with_only_columns(predictions.c.id).subquery()
    said = select(labels).where(labels.c.prediction.in_(select(chosen.c.id))).order_by(*LATEST_LAST)
    latest = {label.prediction: label for label in connection.execute(said)}  # a later one replaces an earlier one
    found = [latest.get(row.id) for row in rows]
    columns: dict[str, Any] = {
        "id": [row.id for row in rows],
        "at": np.array([row.at for row in rows], np.float64),
        **{name: pd.Series([getattr(row, name) for row in rows], dtype=object) for name in TEXTS},
        "shadow_of": pd.Series([row.shadow_of or "" for row in rows], dtype=object),
        "confidence": np.array([row.confidence for row in rows], np.float64),
        "latency_ms": np.array([row.latency_ms for row in rows], np.float64),
        "outputs": pd.Series(_outputs(rows), dtype=object),
        "embedding": pd.Series([row.embedding or b"" for row in rows], dtype=object),
        "label": pd.Series([label and label.label for label in found], dtype=object),
        "label_source": pd.Series([label and label.source for label in found], dtype=object),
        "labelled_at": np.array([label.at if label else math.nan for label in found], np.float64),
    }
    features = _features(rows)
    renamed = {f"feature_{name}" if name in columns else name: values for name, values in features.items()}
    return pd.DataFrame(columns | renamed)


def _outputs(rows: Sequence[Row[Any]]) -> list[list[float]]:
    """Of each prediction its K outputs."""
    if len({len(row.outputs) for row in rows}) == 1 and rows[0].outputs:
        outputs_NK = np.frombuffer(b"".join(row.outputs for row in rows), "<f4").reshape(len(rows), -1)
        return outputs_NK.tolist()
    return [np.frombuffer(row.outputs, "<f4").tolist() for row in rows]


def _features(rows: Sequence[Row[Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Of each feature its N values, NaN where a prediction has none."""
    documents = [orjson.loads(row.features) for row in rows]
    names = dict.fromkeys(chain.from_iterable(documents))
    return {name: np.array([each.get(name) for each in documents], np.float64) for name in names}
