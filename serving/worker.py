"""One worker process: the service's application on the socket that its supervisor listens on.

    python -m serving.worker --socket 5 --line 6

Over the line, the other end of which the supervisor holds, it says every second that its event loop turns, for the
first time when it accepts requests. When the line is cut the supervisor is gone: it finishes what it has and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence

import uvicorn

from labline.errors import LablineError
from serving.connections import bounded
from serving.settings import WORKER, Settings, from_environment

APPLICATION = "serving.app:create_app"
BACKLOG = 2048  # connections that wait for a worker; the system may allow fewer (net.core.somaxconn)
BEAT_SECONDS = 1
BEAT = b"."
SWITCH_SECONDS = 0.0002

logger = logging.getLogger(__name__)


def serve(settings: Settings, application: str, listening: socket.socket, line: socket.socket) -> None:
    """Answer requests until SIGTERM or until the line is cut; what is in hand is finished."""

    async def beat() -> None:
        with contextlib.suppress(OSError):  # a supervisor that does not read now, or is gone: `end_with` sees to that
            line.send(BEAT, socket.MSG_DONTWAIT)

    # A model's thread gets the interpreter lock back from a busy event loop this soon, instead of after 5 ms.
    sys.setswitchinterval(SWITCH_SECONDS)
    config = uvicorn.Config(
        application,
        factory=True,
        lifespan="on",
        loop="auto",  # uvloop where it runs
        http=bounded(settings.body_timeout),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        callback_notify=beat,
        timeout_notify=BEAT_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listening])


def end_with(line: socket.socket) -> None:
    """Ask this process to end when the line is cut; for a thread of its own."""
    with contextlib.suppress(OSError):
        while line.recv(1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line, for the supervisor alone; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.worker")
    parser.add_argument("--socket", type=int, required=True, help="file descriptor of the listening socket")
    parser.add_argument("--line", type=int, required=True, help="file descriptor of the line to the supervisor")
    parser.add_argument("--app", default=APPLICATION, help="factory of the application, module:function")
    asked = parser.parse_args(arguments)
    log_to_stderr(f"worker {os.environ.get(WORKER, '')}: ")
    listening, line = socket.socket(fileno=asked.socket), socket.socket(fileno=asked.line)
    try:
        settings = from_environment()
        threading.Thread(target=end_with, args=(line,), name="supervisor", daemon=True).start()
        serve(settings, asked.app, listening, line)
    except LablineError as error:
        logger.error(error)
        return error.exit_code
    return 0


def log_to_stderr(who: str = "") -> None:
    """One line an event, after who says it; of other libraries warnings only."""
    form = f"%(asctime)s %(levelname)s {who}%(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, datefmt="%Y-%m-%d %H:%M:%S")
    logging.getLogger("serving").setLevel(logging.INFO)


if __name__ == "__main__":
    raise SystemExit(main())
