"""A real worker process on a real socket, with versions of a few nodes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from small_models import series_model
from small_versions import write_version

from labline.feedback import FeedbackStore
from serving.assignment import Assigned, Assignment, write_assignment
from serving.settings import Settings

PROJECT = Path(__file__).parents[2]
VOLATILITY = (PROJECT / "usecases" / "volatility.toml").read_text()
USECASE, KEY = "parts", "a-key-of-the-tests"
RAW, JSON, NPY = "application/octet-stream", "application/json", "application/x-npy"


@dataclass(frozen=True)
class Running:
    """A service that answers; `client` presents the key."""

    client: httpx.Client
    settings: Settings
    process: subprocess.Popen[bytes]
    port: int

    def post(self, path: str, content: bytes, media: str, **headers: str) -> httpx.Response:
        return self.client.post(path, content=content, headers={"content-type": media, **headers})

    def say(self, path: str, document: object) -> httpx.Response:
        return self.post(path, json.dumps(document).encode(), JSON)

    def stored(self, rows: int, **chosen: Any) -> list[dict[str, Any]]:
        """The predictions of the store, oldest first, when so many are there."""
        store = FeedbackStore(self.settings.feedback)
        for _ in range(200):
            found = store.window(USECASE, **chosen)
            if len(found) >= rows:
                return [{str(k): v for k, v in row.items()} for row in found.to_dict("records")]
            time.sleep(0.05)
        raise AssertionError(f"{len(found)} of {rows} predictions were stored")


def prepare(
    root: Path, *, production: Path | None, staging: Path | None = None, canary: float = 0.0, shadow: float = 0.0
) -> Settings:
    """The settings of a service with its assignment written."""
    folder = root / "serving" / USECASE / "1"
    assigned = [Assigned(str(n), str(path)) if path else None for n, path in ((1, production), (2, staging))]
    write_assignment(folder, Assignment("production", assigned[0], assigned[1], canary, shadow))
    return Settings(USECASE, root, folder, f"sqlite:///{root / 'feedback.db'}", key=KEY)


@contextmanager
def running(settings: Settings, port: int = 0, **changes: Any) -> Iterator[Running]:
    """A worker process, started as the supervisor starts it, on any free port, until it is asked to end."""
    settings = replace(settings, **changes)
    with socket.create_server(("127.0.0.1", port)) as listening:
        ours, theirs = socket.socketpair()
        port = listening.getsockname()[1]
        descriptors = (listening.fileno(), theirs.fileno())
        command = [
            sys.executable,
            "-m",
            "serving.worker",
            "--socket",
            str(descriptors[0]),
            "--line",
            str(descriptors[1]),
        ]
        process = subprocess.Popen(
            command, pass_fds=descriptors, env={**os.environ, **settings.to_environment()}, cwd=PROJECT
        )
        theirs.close()
    headers = {"authorization": f"Bearer {settings.key}"} if settings.key else {}
    try:
        with ours, httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=20) as client:
            ours.settimeout(60)
            assert ours.recv(1), "the worker did not come up"
            yield Running(client, settings, process, port)
    finally:
        process.terminate()
        process.wait(30)


def write_forecaster(folder: Path, declaration: str = VOLATILITY) -> Path:
    """A version that forecasts the mean of its window."""
    series_model(folder, declaration, window=20, features=2)
    windows = {"name": "windows", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 20, 2]}}
    forecast = {"name": "forecast", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 1]}}
    signature = {"inputs": json.dumps([windows]), "outputs": json.dumps([forecast])}
    described = {"flavors": {"onnx": {"data": "model.onnx"}}, "signature": signature}
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    (folder / "input_example.json").write_text(json.dumps(np.full((1, 20, 2), 0.25).tolist()))
    return folder


def write_classifier(folder: Path, contrast: float = 0.05, **serving: object) -> Path:
    """A version that tells bright images from dark ones, with [serving] settings in its declaration."""
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in serving.items())
    return write_version(folder, contrast, f'title = "Parts"\n[serving]\n{lines}\n')
