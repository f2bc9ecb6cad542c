"""The production profile of `labline up`: the processes of deployments/ on one machine, with accounts and databases.

PostgreSQL, Redis, an S3 server where none is configured, the Prefect server and its background services as processes
of their own, and MLflow, which hands artifacts on to S3. What is secret is made once for a storage root, and reaches
processes through their environment alone.
"""

from __future__ import annotations

import os
import secrets as random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from flows.object_store import ObjectStore
from flows.postgres import Postgres
from flows.processes import answers, free_ports
from flows.redis import Redis
from flows.supervision import Place
from labline.errors import BadInput
from tasks.environment import PROJECT
from tasks.secrets import read_secrets, write_secrets

USER = "labline"  # in Prefect and MLflow
ROLES = ("prefect", "mlflow", "labline")  # of PostgreSQL, each with a database of its own
MADE = (*ROLES, "postgres", "redis", "s3", "prefect_api", "mlflow_api", "mlflow_session", "service", "feedback")
PACKAGES = {"flask_wtf": "mlflow[auth]", "psycopg2": "psycopg2-binary", "psycopg": "psycopg[binary]"}
PACKAGES |= {"prefect_redis": "prefect-redis", "boto3": "boto3"}
BUCKET = "labline"
# MLflow compares version numbers with text, which the older driver sends without a type and the newer as VARCHAR:
# "operator does not exist: integer <> character varying", as soon as a version changes its stage.
MLFLOW_DATABASE = "postgresql+psycopg2://"
BASE_GRACE_SECONDS = 20.0  # PostgreSQL writes what it has in memory
SERVER_GRACE_SECONDS = 10.0
AUTHORISATION = PROJECT / "deployments" / "mlflow-authorisation.ini"


@dataclass(frozen=True)
class Production:
    """Everything that the profile starts, with its files in `folder`; the ports are those of the pages."""

    folder: Path
    mlflow_port: int
    prefect_port: int
    passwords: Mapping[str, str] = field(repr=False)
    postgres: Postgres = field(repr=False)
    redis: Redis = field(repr=False)
    storage: ObjectStore | None = field(repr=False)

    @property
    def secrets(self) -> Path:
        """The file that tells clients their accounts."""
        return self.folder / "clients.env"

    def client_environment(self) -> dict[str, str]:
        """The variables of whoever asks the servers: labline's commands, the worker, the services."""
        return {
            "PREFECT_API_AUTH_STRING": f"{USER}:{self.passwords['prefect_api']}",
            "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # what Prefect answers while it reaches no database
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": self.passwords["mlflow_api"],
            "LABLINE_SERVING_KEY": self.passwords["service"],
            "LABLINE_FEEDBACK_KEY": self.passwords["feedback"],
            "LABLINE_LEDGER": "postgresql://",
            "LABLINE_FEEDBACK": "postgresql://",
            **self.postgres.client_environment("labline", self.passwords["labline"]),
        }

    def groups(self, common: Mapping[str, str], log: Callable[[str], Path]) -> Iterator[list[Place]]:
        """The servers, group by group: the next is asked for when the one before is ready.

        `common` are the variables of all of them; none learns a secret that is another's.
        """
        yield list(self._foundations(common, log))
        self.postgres.make_databases({role: self.passwords[role] for role in ROLES})
        if self.storage:
            self.storage.make_bucket(BUCKET)
        yield list(self._servers(common, log))
        yield [self._background(common, log)]  # of a database in which the server has made the tables

    def _foundations(self, common: Mapping[str, str], log: Callable[[str], Path]) -> Iterator[Place]:
        self.postgres.initialise()
        self.redis.write_configuration()
        parts: list[tuple[str, Postgres | Redis | ObjectStore, dict[str, str]]] = [
            ("postgres", self.postgres, {}),
            ("redis", self.redis, {}),
        ]
        if self.storage:
            self.storage.make_bucket(BUCKET)
            parts.append(("s3", self.storage, self.storage.environment()))
        for name, part, own in parts:
            environment = {**common, **own}
            yield Place(
                name,
                part.command(),
                log(name),
                environment,
                lambda _, part=part: part.answers(),  # type: ignore[misc]
                address=f"127.0.0.1:{part.port}",
                grace_seconds=BASE_GRACE_SECONDS,
            )

    def _servers(self, common: Mapping[str, str], log: Callable[[str], Path]) -> Iterator[Place]:
        python = [sys.executable, "-m"]
        mlflow = ["mlflow", "server", "--app-name", "basic-auth", "--workers", "1", *_on(self.mlflow_port)]
        yield _server("mlflow", python + mlflow, log, {**common, **self._mlflow()}, self.mlflow_port, "/health")
        pages = ["prefect", "server", "start", "--no-services", *_on(self.prefect_port)]
        yield _server("prefect", python + pages, log, {**common, **self._prefect()}, self.prefect_port, "/api/health")

    def _background(self, common: Mapping[str, str], log: Callable[[str], Path]) -> Place:
        return Place(
            "background",
            [sys.executable, "-P", "-m", "flows.background"],
            log("background"),
            {**common, **self._prefect()},
            self.redis.services_since,
            grace_seconds=SERVER_GRACE_SECONDS,
        )

    def _mlflow(self) -> dict[str, str]:
        """The variables of the MLflow server; its passwords are in no address, and so in no log."""
        return {
            "MLFLOW_BACKEND_STORE_URI": MLFLOW_DATABASE,
            "MLFLOW_REGISTRY_STORE_URI": MLFLOW_DATABASE,
            "MLFLOW_ARTIFACTS_DESTINATION": os.environ.get("LABLINE_ARTIFACTS", f"s3://{BUCKET}/mlflow"),
            "MLFLOW_AUTH_CONFIG_PATH": str(AUTHORISATION),
            "MLFLOW_AUTH_ADMIN_USERNAME": USER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.passwords["mlflow_api"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.passwords["mlflow_session"],
            **self.postgres.client_environment("mlflow", self.passwords["mlflow"]),
            **(self.storage.client_environment() if self.storage else {}),
        }

    def _prefect(self) -> dict[str, str]:
        """The variables of the Prefect server and of its background services."""
        return {
            "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{self.passwords['prefect_api']}",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # which is their log here
            "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(self.postgres.port),
            "PREFECT_SERVER_DATABASE_USER": "prefect",
            "PREFECT_SERVER_DATABASE_NAME": "prefect",
            "PREFECT_SERVER_DATABASE_PASSWORD": self.passwords["prefect"],
            **self.redis.prefect_environment(),
        }


def production(store: Path, mlflow_port: int, prefect_port: int) -> Production:
    """The profile on a storage root, on ports of loopback that are free, with its clients' accounts written there.

    Raises BadInput where what it is made of is not installed.
    """
    if missing := [package for module, package in PACKAGES.items() if find_spec(module) is None]:
        raise BadInput(f"--profile production needs {', '.join(missing)}: pip install 'labline[production]'")
    folder = store / "production"
    passwords = _passwords(folder / "servers.env")
    ports = free_ports(3)
    storage = None
    if "AWS_ENDPOINT_URL" not in os.environ and "LABLINE_ARTIFACTS" not in os.environ:
        storage = ObjectStore(folder / "s3", ports[2], passwords["s3"])
    made = Production(
        folder,
        mlflow_port,
        prefect_port,
        passwords,
        Postgres(folder / "postgres", ports[0], passwords["postgres"]),
        Redis(folder / "redis", ports[1], passwords["redis"]),
        storage,
    )
    write_secrets(made.secrets, made.client_environment())
    return made


def refuse_other_servers(environment: Mapping[str, str]) -> None:
    """Raise BadInput where a server is named that is to be used: this profile starts its own."""
    for variable in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        if environment.get(variable, "").startswith("http"):
            raise BadInput(
                f"--profile production starts servers of its own, and {variable} names another: unset it, or use "
                "labline up without the profile, which uses that one"
            )


def _passwords(path: Path) -> dict[str, str]:
    """Made once; a storage root of an earlier version gets what is new."""
    known = read_secrets(path) if path.is_file() else {}
    passwords = {name: known.get(name) or random.token_urlsafe(24) for name in MADE}
    if passwords != known:
        write_secrets(path, passwords)
    return passwords


def _on(port: int) -> list[str]:
    return ["--host", "127.0.0.1", "--port", str(port)]


def _server(
    name: str, command: list[str], log: Callable[[str], Path], environment: Mapping[str, str], port: int, health: str
) -> Place:
    address = f"http://127.0.0.1:{port}"
    return Place(
        name,
        command,
        log(name),
        environment,
        lambda _: answers(address + health),
        address=address,
        health=address + health,
        grace_seconds=SERVER_GRACE_SECONDS,
    )
