"""Opening the database behind a store's address, with what makes it durable and shareable."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.schema import CreateIndex, CreateTable

from labline.database import database_url, make_folder
from labline.errors import BadInput
from labline.feedback.tables import metadata

WAIT_SECONDS = 10  # for a lock of another process, or for a server that does not answer
TABLES_LOCK = 5_204_761_137  # any number, the same in every process

# Each statement is for one connection. FULL, not the NORMAL that WAL often goes with: NORMAL may lose the last
# transactions when the power fails, and the journal deletes its copy as soon as a transaction is committed. A batch
# of hundreds of records shares the one wait for the disk that FULL costs. See https://sqlite.org/pragma.html.
SQLITE_SETTINGS = (
    f"PRAGMA busy_timeout = {1000 * WAIT_SECONDS}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",  # what is deleted for privacy is overwritten
)


def engine_of(address: str) -> Engine:
    """An engine for `sqlite:///PATH` or `postgresql://…`, also `postgres://…`; nothing is connected or made yet.

    Its connections are tried before use, so that a server may restart in between. Raises BadInput for an address of
    another kind, or a missing driver.
    """
    try:
        url = database_url(address)
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise BadInput(
                f"LABLINE_FEEDBACK begins with {url.drivername}://: sqlite:///PATH or postgresql://… was expected"
            )
        wait: dict[str, Any] = {} if url.get_backend_name() == "sqlite" else {"connect_timeout": WAIT_SECONDS}
        engine = create_engine(url, pool_pre_ping=True, connect_args=wait)
    except (ArgumentError, NoSuchModuleError) as error:
        raise BadInput("LABLINE_FEEDBACK is no database address: sqlite:///PATH or postgresql://…") from error
    except ModuleNotFoundError as error:
        raise BadInput(
            f"LABLINE_FEEDBACK names PostgreSQL, but {error.name} is not installed: pip install 'labline[postgres]'"
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up)
    return engine


def make_tables(engine: Engine) -> None:
    """Make the tables that are not there, and the folder of an SQLite file; any number of processes may at once.

    Raises what SQLAlchemy raises where the database cannot be reached.
    """
    make_folder(engine)
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # IF NOT EXISTS alone lets two processes make the same table, and one of them fails; and it locks what is
            # there already against those who write.
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": TABLES_LOCK})
            if not metadata.tables.keys() - set(inspect(connection).get_table_names()):
                return
        for table in metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                connection.execute(CreateIndex(index, if_not_exists=True))


def _set_up(connection: sqlite3.Connection, _: object) -> None:
    for statement in SQLITE_SETTINGS:
        connection.execute(statement)
