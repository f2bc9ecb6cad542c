"""deployments/databases.sh, and the PostgreSQL of the production profile: a role, its database and its password."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from free_ports import free_port

from flows.postgres import ADMINISTRATOR, DEBIAN, Postgres
from flows.processes import start, stop

pytestmark = pytest.mark.skipif(
    not (list(DEBIAN.glob("*/bin/initdb")) and shutil.which("psql")), reason="needs apt-get install postgresql"
)
ROLES = ("prefect", "mlflow", "labline")
HARD = 'it\'s "$HOME" \\ 100%'  # a password that a shell, SQL or psql might read otherwise


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    folder = tmp_path_factory.mktemp("postgres")
    server = Postgres(folder / "files", free_port(), HARD)
    server.initialise()
    process = start(server.command(), folder / "log", os.environ)
    try:
        for _ in range(300):
            if server.answers():
                break
            time.sleep(0.1)
        yield server
    finally:
        stop({"postgres": process}, 20)
    assert "database system is shut down" in (folder / "log").read_text()


def connect(server: Postgres, role: str, password: str, database: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(host="127.0.0.1", port=server.port, user=role, password=password, dbname=database)


def test_the_script_of_the_containers_makes_what_is_needed(postgres: Postgres) -> None:
    passwords = {f"{role.upper()}_DATABASE_PASSWORD": f"{role} {HARD}" for role in ROLES}
    address = postgres.client_environment(ADMINISTRATOR, HARD)
    done = subprocess.run(
        ["sh", "deployments/databases.sh"], env=os.environ | address | passwords, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert HARD not in done.stdout + done.stderr
    for role in ROLES:
        with connect(postgres, role, f"{role} {HARD}", role) as connection:
            connection.execute("CREATE TABLE mine (one int)")
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")  # as Prefect does on its first start
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect(postgres, role, "wrong", role)


def test_the_profile_makes_them_once_and_renews_their_passwords(postgres: Postgres) -> None:
    for password in ("first", "second"):
        postgres.make_databases({"one": password, "two": HARD})
        connect(postgres, "one", password, "one").close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(postgres, "one", "first", "one")
    connect(postgres, "two", HARD, "two").close()


def test_a_folder_that_is_there_is_used_again(postgres: Postgres) -> None:
    before = (postgres.folder / "PG_VERSION").stat().st_mtime_ns
    postgres.initialise()
    assert (postgres.folder / "PG_VERSION").stat().st_mtime_ns == before


def test_a_beginning_that_was_interrupted_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "half").write_text("")
    Postgres(tmp_path / "files", free_port(), "password").initialise()
    assert (tmp_path / "files" / "PG_VERSION").is_file()
    assert not (tmp_path / "files" / "half").exists()
