"""A PostgreSQL server of a storage root's own: its files, its roles and databases, and how it is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labline.errors import BadInput, LablineError

if TYPE_CHECKING:
    from psycopg import Connection

ADMINISTRATOR = "postgres"
CONNECT_SECONDS = 2
DEBIAN = Path("/usr/lib/postgresql")
# PostgreSQL refuses to run as root. In a user namespace it runs as somebody else, and its files stay ours.
AS_NOBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534")


@dataclass(frozen=True)
class Postgres:
    """A server on a port of loopback, with its files in `folder`; `password` is its administrator's."""

    folder: Path
    port: int
    password: str

    def initialise(self) -> None:
        """Make its files where there are none. Raises BadInput where PostgreSQL is not installed."""
        if (self.folder / "PG_VERSION").is_file():
            return
        shutil.rmtree(self.folder, ignore_errors=True)  # of one that was interrupted
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w") as passwords:
            passwords.write(self.password)
            passwords.flush()
            words = [f"--pgdata={self.folder}", f"--username={ADMINISTRATOR}", f"--pwfile={passwords.name}"]
            options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
            made = subprocess.run([*_program("initdb"), *words, *options], capture_output=True, text=True)
        if made.returncode:
            raise LablineError(f"PostgreSQL made no files in {self.folder}: {made.stderr.strip().splitlines()[-1]}")

    def command(self) -> list[str]:
        """The command of the server; it listens on loopback alone, where every connection needs a password."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": ""}
        # Prefect's servers keep a pool for each of their processes.
        settings |= {"max_connections": 300}
        return [*_program("postgres"), "-D", str(self.folder), *(f"--{name}={it}" for name, it in settings.items())]

    def answers(self) -> bool:
        """Whether it takes connections just now."""
        import psycopg

        try:
            self._connected().close()
        except psycopg.OperationalError:
            return False
        return True

    def make_databases(self, passwords: Mapping[str, str]) -> None:
        """A database for each of these roles, which owns it; a role that is there gets its password again."""
        from psycopg import sql

        with self._connected() as connection:
            for role, password in passwords.items():
                known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
                verb = sql.SQL("ALTER" if known else "CREATE")
                name = sql.Identifier(role)
                connection.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, name, sql.Literal(password)))
                there = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (role,)).fetchone()
                if not there:
                    connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))

    def client_environment(self, role: str, password: str) -> dict[str, str]:
        """The variables with which libpq and asyncpg connect as a role to its database: no address has a password."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": role,
            "PGDATABASE": role,
            "PGPASSWORD": password,
        }

    def _connected(self) -> Connection[Any]:
        import psycopg

        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=ADMINISTRATOR,
            password=self.password,
            dbname=ADMINISTRATOR,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
        )


def _program(name: str) -> list[str]:
    """A program of the newest PostgreSQL that has what Prefect needs of it, the extension pg_trgm."""
    on_path = shutil.which(name)
    folders = sorted(DEBIAN.glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    found = next((folder / name for folder in folders if (folder / name).is_file()), Path(on_path) if on_path else None)
    if found is None:
        raise BadInput(
            f"--profile production starts a PostgreSQL server, and {name} is not installed: "
            "apt-get install postgresql redis-server"
        )
    return [*AS_NOBODY, str(found)] if os.geteuid() == 0 else [str(found)]
