"""What acts on the test session's servers from outside this process: labline, a worker, a person in a browser."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from browser import chromium, needs_chromium
from playwright.sync_api import Page, expect
from small_runs import Ended, command, embedded

from flows.processes import stop
from tasks.environment import storage_root

__all__ = ["environment", "labline", "needs_chromium", "page", "prefect", "worker"]


def environment(servers: dict[str, str]) -> dict[str, str]:
    """That of a user who has told labline where the servers are, and nothing else."""
    addresses = {"PREFECT_API_URL": f"{servers['prefect']}/api", "MLFLOW_TRACKING_URI": servers["mlflow"]}
    return embedded(storage_root()) | addresses | {"LABLINE_PROJECT": str(Path.cwd())}


def labline(servers: dict[str, str], *arguments: str) -> Ended:
    """Run a labline command in a process of its own."""
    done = subprocess.run(command(*arguments), env=environment(servers), capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def prefect(servers: dict[str, str], home: Path, *arguments: str) -> None:
    """Run a Prefect command that has to succeed."""
    line = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(line, env=environment(servers) | {"PREFECT_HOME": str(home)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def worker(servers: dict[str, str], pool: str, home: Path) -> Iterator[psutil.Process]:
    """A Prefect worker in a home of its own, as on another machine; gone with all its flow runs at the end."""
    home.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    own = environment(servers) | {"PREFECT_HOME": str(home), "PREFECT_WORKER_QUERY_SECONDS": "0.5"}
    with (home / "worker.log").open("ab") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log, env=own, process_group=0)
    try:
        yield psutil.Process(process.pid)
    finally:
        stop({"worker": process})


@contextmanager
def page() -> Iterator[Page]:
    """A person's browser; it must do without any address but the two servers'."""
    expect.set_options(timeout=90_000)
    outside: list[str] = []
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1440, "height": 1000})
        opened.set_default_timeout(90_000)
        opened.on(
            "request", lambda asked: urlsplit(asked.url).hostname in (None, "127.0.0.1") or outside.append(asked.url)
        )
        yield opened
    assert not outside
