"""Everything that `labline up` keeps running on a storage root: what it is made of, and in which order it comes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from flows.accounts import check_accounts
from flows.processes import READY_WITHIN_SECONDS, answers, end, marked, refuse_taken_port, start, stop, taken
from flows.servers import (
    WORKER_QUERY_SECONDS,
    client_environment,
    deploy_command,
    go_on_with_stranded,
    in_production,
    make_automations,
    make_pool,
    mlflow_command,
    prefect_command,
    server_environment,
    service_command,
    worker_command,
    worker_is_ready,
)
from flows.supervision import Place, Supervisor
from labline.errors import BadInput, LablineError, nearest
from tasks.environment import PROJECT
from tasks.running import MARK, Running, Service, identify, write_running
from tasks.secrets import VARIABLE as LABLINE_SECRETS

LOOK_SECONDS = 2.0  # between two looks at what is in Production, and at what has lost its worker
WORKER_GRACE_SECONDS = 10.0  # its flow runs tell the Prefect server how they ended
SERVICE_GRACE_SECONDS = 30.0  # it answers what it has begun, and stores what it has noted
LAST_PORT = 65535
PROFILES = ("local", "production")


@dataclass(frozen=True)
class Wanted:
    """What was asked for; no `usecases` are all that have a version in Production, `port` is the first service's.

    The servers are those of the `profile`: embedded databases, or what runs in production.
    """

    usecases: tuple[str, ...] = ()
    mlflow_port: int = 5000
    prefect_port: int = 4200
    port: int = 8080
    profile: str = PROFILES[0]

    def options(self) -> list[str]:
        """As words of the command line."""
        ports: dict[str, int | str] = {"mlflow-port": self.mlflow_port, "prefect-port": self.prefect_port}
        ports |= {"port": self.port, "profile": self.profile}
        asked = [f"--usecase={usecase}" for usecase in self.usecases]
        return [f"--{name}={value}" for name, value in ports.items()] + asked


@dataclass
class Site:
    """Servers, worker, deployments and services of a storage root; a loaded environment tells where they keep things.

    Servers that the environment names already are used, not started. Raises BadInput for a port that is taken.
    """

    store: Path
    wanted: Wanted
    said: Callable[[str], None]
    ready: bool = False
    looked: float = 0.0
    mark: str = field(default_factory=lambda: uuid4().hex)
    foreign: list[Service] = field(default_factory=list)
    deploying: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.wanted.profile not in PROFILES:
            raise BadInput(f"--profile {self.wanted.profile}: {nearest(self.wanted.profile, PROFILES)}")
        self.supervisor = Supervisor(self.said, self.write)
        tracking, registry = os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_REGISTRY_URI"]
        api = os.environ.get("PREFECT_API_URL", "").rstrip("/").removesuffix("/api")
        self.mlflow = self._address("mlflow", tracking, self.wanted.mlflow_port)
        self.prefect = self._address("prefect", api, self.wanted.prefect_port)
        self.registry = registry if registry.startswith("http") else self.mlflow
        self.addresses = client_environment(self.mlflow, self.prefect)
        self.groups = self._profile()
        own = {"MLFLOW_REGISTRY_URI": self.registry, "LABLINE_PROJECT": str(PROJECT), MARK: self.mark}
        self.environment = {"PREFECT_WORKER_QUERY_SECONDS": WORKER_QUERY_SECONDS} | os.environ | self.addresses | own
        refuse_taken_port("the first service", self.wanted.port, "--port")

    def come_up(self) -> None:
        """Start the servers, then what asks them, and wait until each is ready.

        Raises LablineError for what does not come up; the caller then takes everything down.
        """
        self._start_servers()
        check_accounts(self.prefect, self.mlflow)
        make_pool(self.prefect)
        make_automations(self.prefect)
        self._go_on_with_stranded(time.time())
        self._start_worker()
        self.deploying["deployments"] = start(deploy_command(), self._log("deployments"), self.environment, PROJECT)
        self._start_services()
        self.supervisor.wait(self.supervisor.places)
        self._wait_until_deployed()
        self.ready = True
        self.write()

    def tend(self) -> None:
        """Look after what runs, and start the services of what has come to Production meanwhile."""
        self.supervisor.tend()
        if time.monotonic() - self.looked > LOOK_SECONDS:
            self._start_services()
            with contextlib.suppress(LablineError):  # the Prefect server is being started again: the next look
                self._go_on_with_stranded(self.supervisor.places["worker"].begun)

    def go_down(self) -> None:
        """End everything; no process is left."""
        stop(self.deploying)
        self.supervisor.stop()
        end(marked(MARK, self.mark))

    def waiting(self) -> tuple[str, ...]:
        """The use cases asked for that have no version in Production yet."""
        return tuple(name for name in self.wanted.usecases if name not in self.supervisor.places)

    def described(self) -> Running:
        """How things stand."""
        return Running(
            supervisor=identify(os.getpid()),
            ready=self.ready,
            mark=self.mark,
            environment=self.addresses,
            services=(*self.foreign, *(place.described() for place in self.supervisor.places.values())),
            waiting=self.waiting(),
        )

    def write(self) -> None:
        """Tell other commands how things stand."""
        write_running(self.store, self.described())

    def _profile(self) -> Iterator[list[Place]]:
        """The servers, group by group; who asks them needs accounts from now on, where the profile has any."""
        common = server_environment() | {MARK: self.mark}
        if self.wanted.profile == PROFILES[0]:
            return iter([list(self._local_servers(common))])
        from flows.production import production, refuse_other_servers

        refuse_other_servers(os.environ)
        profile = production(self.store, self.wanted.mlflow_port, self.wanted.prefect_port)
        accounts = profile.client_environment()
        os.environ.update(accounts)
        self.addresses |= {LABLINE_SECRETS: str(profile.secrets)}
        return profile.groups({name: it for name, it in common.items() if name not in accounts}, self._log)

    def _local_servers(self, environment: dict[str, str]) -> Iterator[Place]:
        ours = {
            "mlflow": (mlflow_command(self.wanted.mlflow_port, proxied=False), self.mlflow, "/health"),
            "prefect": (prefect_command(self.wanted.prefect_port), self.prefect, "/api/health"),
        }
        for name, (command, address, health) in ours.items():
            if name not in {service.name for service in self.foreign}:
                yield self._place(name, command, address, address + health, environment)

    def _start_servers(self) -> None:
        for places in self.groups:
            for place in places:
                self.supervisor.add(place)
            self.supervisor.wait(self.supervisor.places)

    def _go_on_with_stranded(self, before: float) -> None:
        """Of runs that were begun before there was this worker."""
        if "prefect" not in self.supervisor.places:
            return  # on somebody else's server, the pool may have workers on other machines
        runs = go_on_with_stranded(self.prefect, before)
        if runs:
            self.said(f"goes on with what was interrupted: {', '.join(runs)}")

    def _start_worker(self) -> None:
        place = Place(
            name="worker",
            command=worker_command(),
            log=self._log("worker"),
            environment=self.environment,
            is_ready=lambda begun: worker_is_ready(self.prefect, begun),
            grace_seconds=WORKER_GRACE_SECONDS,
        )
        self.supervisor.add(place)

    def _start_services(self) -> None:
        self.looked = time.monotonic()
        standing = in_production(self.registry)
        if standing is None:
            return  # it is being started again; the next look finds it
        for usecase in self.wanted.usecases or sorted(standing):
            if usecase in standing and usecase not in self.supervisor.places:
                port = self._free_port()
                address = f"http://127.0.0.1:{port}"
                command = service_command(usecase, port)
                self.supervisor.add(self._place(usecase, command, address, f"{address}/ready", self.environment))

    def _place(self, name: str, command: list[str], address: str, health: str, environment: dict[str, str]) -> Place:
        server = name in ("mlflow", "prefect")
        return Place(
            name=name,
            command=command,
            log=self._log(name if server else f"serve-{name}"),
            environment=environment,
            is_ready=lambda _: answers(health),
            address=address,
            health=health,
            grace_seconds=WORKER_GRACE_SECONDS if server else SERVICE_GRACE_SECONDS,
        )

    def _wait_until_deployed(self) -> None:
        deploying = self.deploying["deployments"]
        try:
            code = deploying.wait(timeout=READY_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            raise LablineError(f"deployments/prefect.yaml could not be deployed: see {self._log('deployments')}")

    def _address(self, name: str, named: str, port: int) -> str:
        """Where a server is: that of the environment where it names one, else our own on a port of loopback."""
        if named.startswith("http"):
            self.foreign.append(Service(name=name, address=named.rstrip("/"), ready=True))
            return named.rstrip("/")
        refuse_taken_port(f"the {name} pages", port, f"--{name}-port")
        return f"http://127.0.0.1:{port}"

    def _free_port(self) -> int:
        """The next port from the first one on that nobody has and that no service of ours comes back to."""
        used = {int(place.address.rpartition(":")[2]) for place in self.supervisor.places.values() if place.address}
        for port in range(self.wanted.port, LAST_PORT + 1):
            if port not in used and not taken(port):
                return port
        raise BadInput(f"no port from {self.wanted.port} on is free: choose another with --port")

    def _log(self, name: str) -> Path:
        return self.store / "logs" / f"{name}.log"
