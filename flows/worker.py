"""`labline worker`: a worker of a Prefect server elsewhere, in this process's place."""

from __future__ import annotations

import os
import sys

from flows.accounts import check_accounts
from flows.servers import WORKER_QUERY_SECONDS
from labline.errors import BadInput
from tasks.environment import PROJECT, load_environment

HEALTH_PORT = 8080


def work(pool: str, queue: str | None, limit: int | None) -> None:
    """Become `prefect worker start`, with everything set that flows need; its health is at /health of port 8080.

    `limit` is how many flow runs go on at once. Raises BadInput where no server is named, or it refuses the account.
    """
    load_environment()
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise BadInput("labline worker needs a Prefect server: set PREFECT_API_URL; labline up has a worker of its own")
    check_accounts(api, os.environ["MLFLOW_TRACKING_URI"])
    os.environ.setdefault("LABLINE_PROJECT", str(PROJECT))
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", WORKER_QUERY_SECONDS)
    os.environ.setdefault("PREFECT_WORKER_WEBSERVER_PORT", str(HEALTH_PORT))
    words = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    words += ["--with-healthcheck"]
    words += ["--work-queue", queue] if queue else []
    words += ["--limit", str(limit)] if limit else []
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, words)
