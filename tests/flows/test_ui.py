"""`labline ui`: both servers while a person looks, nothing left of them afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from free_ports import free_ports
from typer.testing import CliRunner

from flows.cli import app

LABLINE_UI = [sys.executable, "-c", "from flows.cli import main; main()", "ui"]


def wait_for(path: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while text not in path.read_text():
        assert process.poll() is None, path.read_text()
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.2)


def test_both_pages_are_served_and_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    mlflow_port, prefect_port = free_ports(2)
    command = [*LABLINE_UI, f"--mlflow-port={mlflow_port}", f"--prefect-port={prefect_port}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    printed = tmp_path / "printed.txt"
    with printed.open("wb") as output:
        labline = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment | {"LABLINE_STORE": str(tmp_path / "store")}
        )
    try:
        wait_for(printed, "Ctrl-C stops both", labline)
        for port in (mlflow_port, prefect_port):
            assert f"http://127.0.0.1:{port}" in printed.read_text()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
                assert page.status == 200
        family = psutil.Process(labline.pid).children(recursive=True)
        assert len(family) >= 2
        labline.send_signal(signal.SIGINT)
        assert labline.wait(timeout=60) == 0
        assert "stopped" in printed.read_text()
        _, left = psutil.wait_procs(family, timeout=5)
        for process in left:
            process.kill()
        assert not left
    finally:
        labline.kill()


PORTS = ("--mlflow-port", "--prefect-port")


@pytest.mark.parametrize(("option", "other"), [PORTS, PORTS[::-1]])
def test_a_port_in_use_is_bad_input(option: str, other: str) -> None:
    (free,) = free_ports(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["ui", option, str(port), other, str(free)])
    assert result.exit_code == 2
    assert f"port {port}" in result.stderr
    assert option in result.stderr
    assert "Traceback" not in result.stderr


def test_a_store_on_a_server_has_its_pages_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    result = CliRunner().invoke(app, ["ui"])
    assert result.exit_code == 2
    assert "http://mlflow.example:5000" in result.stderr
