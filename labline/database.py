"""Databases by their SQLAlchemy address: what the ledger, the chronicle and the feedback store share."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL, Engine, make_url


def database_url(address: str) -> URL:
    """The address; `postgres://` and `postgresql://` are for psycopg, the driver that labline[postgres] brings.

    Raises SQLAlchemy's ArgumentError for what is no address.
    """
    url = make_url(address)
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgres", "postgresql") else url


def make_folder(engine: Engine) -> None:
    """Make the folder of an SQLite file, where the engine is for one."""
    if engine.dialect.name == "sqlite" and engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
