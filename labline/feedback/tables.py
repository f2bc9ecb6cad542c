"""The tables of the feedback store, alike on SQLite and PostgreSQL."""

from __future__ import annotations

from sqlalchemy import Column, Double, Index, LargeBinary, MetaData, Table, Text

metadata = MetaData()

# No table refers to another: a label may come before its prediction has been drained, and stay when it never is.
predictions = Table(
    "predictions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("usecase", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("answer", Text, nullable=False),
    Column("confidence", Double),  # null where there is none: SQLite has no NaN
    Column("outputs", LargeBinary, nullable=False),  # float32, little endian
    Column("latency_ms", Double, nullable=False),
    Column("features", Text, nullable=False),  # a JSON object of numbers
    Column("embedding", LargeBinary),  # float16, little endian
    Column("shadow_of", Text),  # null where it accompanies none: both databases then use the index below
    Column("source", Text, nullable=False),
)
Index("predictions_by_time", predictions.c.usecase, predictions.c.at, predictions.c.id)
_accompanies = predictions.c.shadow_of.is_not(None)
Index("shadows", predictions.c.shadow_of, sqlite_where=_accompanies, postgresql_where=_accompanies)

# Apart from the predictions: reading a window must not drag the images along.
inputs = Table(
    "inputs",
    metadata,
    Column("prediction", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

labels = Table(
    "labels",
    metadata,
    # Of both: an id that a client gave to labels of two predictions must not cost it the second.
    Column("prediction", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("label", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("received", Double, nullable=False),
)

# What was deleted on request stays deleted, whatever a journal still holds.
tombstones = Table(
    "tombstones",
    metadata,
    Column("prediction", Text, primary_key=True),
    Column("at", Double, nullable=False),
)
