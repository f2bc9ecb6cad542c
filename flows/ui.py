"""`labline ui`: the MLflow and Prefect pages of this storage root, on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from flows.processes import refuse_taken_port, start, stop, wait_until_ready
from flows.servers import mlflow_command, prefect_command, server_environment
from labline.errors import BadInput, LablineError
from tasks.environment import load_environment


def serve_pages(mlflow_port: int, prefect_port: int) -> None:
    """Start both servers, say where they are when they answer, and stop them on Ctrl-C.

    Raises BadInput for a port that is taken and for a store that another server keeps.
    """
    from rich.console import Console

    console = Console(highlight=False)
    logs = load_environment() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    _refuse_remote_store(os.environ["MLFLOW_TRACKING_URI"])
    refuse_taken_port("the mlflow pages", mlflow_port, "--mlflow-port")
    refuse_taken_port("the prefect pages", prefect_port, "--prefect-port")
    pages = {
        "mlflow": (mlflow_command(mlflow_port, proxied=False), f"http://127.0.0.1:{mlflow_port}", "/health"),
        "prefect": (prefect_command(prefect_port), f"http://127.0.0.1:{prefect_port}", "/api/health"),
    }
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)  # a closed terminal stops the servers as Ctrl-C does
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with console.status("starting the MLflow and Prefect servers (about 20 seconds)"):
            for name, (command, _, _) in pages.items():
                running[name] = start(command, logs / f"{name}-server.log", server_environment())
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


def _refuse_remote_store(address: str) -> None:
    if address.startswith("http"):
        raise BadInput(
            f"MLFLOW_TRACKING_URI is {address}: the server there shows the MLflow pages; "
            "labline ui serves the pages of a local store, so unset it first"
        )
