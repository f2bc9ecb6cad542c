"""`labline ui`: the MLflow and Prefect pages of this storage root, on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

from labline.errors import LablineError
from tasks.environment import load_environment

READY_WITHIN_SECONDS = 120


def serve_pages(mlflow_port: int, prefect_port: int) -> None:
    """Start both servers, say where they are when they answer, and stop them on Ctrl-C."""
    from rich.console import Console

    console = Console(highlight=False)
    store = load_environment()
    logs = store / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    pages = {
        "mlflow": (mlflow_command(mlflow_port), f"http://127.0.0.1:{mlflow_port}", "/health"),
        "prefect": (prefect_command(prefect_port), f"http://127.0.0.1:{prefect_port}", "/api/health"),
    }
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with console.status("starting the MLflow and Prefect servers (about 20 seconds)"):
            for name, (command, _, _) in pages.items():
                with (logs / f"{name}-server.log").open("ab") as log:
                    running[name] = subprocess.Popen(command, stdout=log, stderr=log, env=server_environment())
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
    store = os.environ["MLFLOW_TRACKING_URI"]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    return [
        *command,
        "--workers",
        "1",
        "--backend-store-uri",
        store,
        "--registry-store-uri",
        os.environ["MLFLOW_REGISTRY_URI"],
    ]


def prefect_command(port: int) -> list[str]:
    """The command that serves the Prefect pages of the configured home."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]


def server_environment() -> Mapping[str, str]:
    """A server must not take itself for its own client, and loopback needs no tracking address."""
    return {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")}


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
    """End servers politely, then firmly."""
    for server in running.values():
        server.terminate()
    for server in running.values():
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
