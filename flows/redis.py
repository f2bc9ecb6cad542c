"""A Redis server of a storage root's own: what the processes of a Prefect server share, events, leases and queues."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labline.errors import BadInput

if TYPE_CHECKING:
    from redis import Redis as Client

SERVICES = "prefect:workers"  # whom the queue of Prefect's background services has heard of lately


@dataclass(frozen=True)
class Redis:
    """A server on a port of loopback, with its files in `folder`."""

    folder: Path
    port: int
    password: str

    def write_configuration(self) -> None:
        """In a file that nobody else reads: the words of a command can be read by everybody on the machine."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            f'dir "{self.folder}"',
            "appendonly yes",  # what is queued outlives the process
        ]
        self._configuration.unlink(missing_ok=True)
        with open(os.open(self._configuration, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        """The command of the server. Raises BadInput where Redis is not installed."""
        program = shutil.which("redis-server")
        if program is None:
            raise BadInput(
                "--profile production starts a Redis server, and redis-server is not installed: "
                "apt-get install postgresql redis-server"
            )
        return [program, str(self._configuration)]

    def answers(self) -> bool:
        """Whether it answers just now."""
        import redis

        with contextlib.suppress(redis.RedisError), self._connected() as client:
            return bool(client.ping())
        return False

    def services_since(self, begun: float) -> bool:
        """Whether Prefect's background services have been heard of since a moment, in seconds since 1970."""
        import redis

        with contextlib.suppress(redis.RedisError), self._connected() as client:
            return int(client.zcount(SERVICES, begun, "+inf")) > 0
        return False

    def prefect_environment(self) -> dict[str, str]:
        """The variables with which Prefect's servers share events, leases and queues through it."""
        return {
            "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
            "PREFECT_REDIS_MESSAGING_PORT": str(self.port),
            "PREFECT_REDIS_MESSAGING_PASSWORD": self.password,
            "PREFECT_SERVER_DOCKET_URL": f"redis://:{self.password}@127.0.0.1:{self.port}/0",
        }

    @property
    def _configuration(self) -> Path:
        return self.folder / "redis.conf"

    def _connected(self) -> Client:
        import redis

        return redis.Redis(host="127.0.0.1", port=self.port, password=self.password, socket_timeout=2)
