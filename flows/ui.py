"""`labline ui`: the MLflow and Prefect pages of this storage root, on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from labline.errors import BadInput, LablineError
from tasks.environment import load_environment

READY_WITHIN_SECONDS = 120
PREFECT_PAGES = {
    # The pages ask port 4200 unless told otherwise; a relative address holds on any port and behind a tunnel.
    "PREFECT_SERVER_UI_API_URL": "/api",
    # The second version of the pages calls amplitude.com even with analytics off; the first calls nobody.
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
}


def serve_pages(mlflow_port: int, prefect_port: int) -> None:
    """Start both servers, say where they are when they answer, and stop them on Ctrl-C.

    Raises BadInput for a port that is taken and for a store that another server keeps.
    """
    from rich.console import Console

    console = Console(highlight=False)
    logs = load_environment() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    _refuse_remote_store(os.environ["MLFLOW_TRACKING_URI"])
    _refuse_taken_port("mlflow", mlflow_port)
    _refuse_taken_port("prefect", prefect_port)
    pages = {
        "mlflow": (mlflow_command(mlflow_port), f"http://127.0.0.1:{mlflow_port}", "/health"),
        "prefect": (prefect_command(prefect_port), f"http://127.0.0.1:{prefect_port}", "/api/health"),
    }
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)  # a closed terminal stops the servers as Ctrl-C does
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with console.status("starting the MLflow and Prefect servers (about 20 seconds)"):
            for name, (command, _, _) in pages.items():
                running[name] = start(command, logs / f"{name}-server.log")
            for name, (_, address, health) in pages.items():
                wait_until_ready(name, address + health, running[name], str(logs / f"{name}-server.log"))
        for name, (_, address, _) in pages.items():
            console.print(f"{name:<8}{address}")
        console.print("Ctrl-C stops both.")
        while all(server.poll() is None for server in running.values()):
            time.sleep(0.5)
        raise LablineError(f"a server stopped by itself: see {logs}")
    except KeyboardInterrupt:
        console.print("stopped")
    finally:
        stop(running)


def mlflow_command(port: int) -> list[str]:
    """The command that serves the MLflow pages of the configured store."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = {
        "--backend-store-uri": os.environ["MLFLOW_TRACKING_URI"],
        "--registry-store-uri": os.environ["MLFLOW_REGISTRY_URI"],
        "--artifacts-destination": os.environ["LABLINE_MLFLOW_ARTIFACTS"],
    }
    return command + [part for option in stores.items() for part in option]


def prefect_command(port: int) -> list[str]:
    """The command that serves the Prefect pages of the configured home."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a server at the head of a process group of its own, so that `stop` reaches its helpers too."""
    # A server must not take itself for its own client, and loopback needs no tracking address.
    client_only = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")
    environment = {name: value for name, value in os.environ.items() if name not in client_only}
    for name, value in PREFECT_PAGES.items():
        environment.setdefault(name, value)
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment, process_group=0)


def wait_until_ready(name: str, address: str, server: subprocess.Popen[bytes], log: str) -> None:
    """Wait for a server's health page; raises LablineError where it ends or stays silent."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise LablineError(f"the {name} server ended with code {server.returncode}: see {log}")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise LablineError(f"the {name} server did not answer at {address} within {READY_WITHIN_SECONDS} s: see {log}")


def stop(running: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """End servers and everything they started, politely, then firmly."""
    for server in running.values():
        _signal_group(server, signal.SIGTERM)
    for server in running.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=5)
        _signal_group(server, signal.SIGKILL)
        server.wait()


def _signal_group(server: subprocess.Popen[bytes], ending: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, ending)


def _refuse_remote_store(address: str) -> None:
    if address.startswith("http"):
        raise BadInput(
            f"MLFLOW_TRACKING_URI is {address}: the server there shows the MLflow pages; "
            "labline ui serves the pages of a local store, so unset it first"
        )


def _refuse_taken_port(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: a port just left is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadInput(
                f"port {port} cannot be used for the {name} pages ({error.strerror}): stop what uses it, "
                f"or choose another port with --{name}-port"
            ) from None
