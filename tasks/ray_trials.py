"""Trials on a Ray cluster: Prefect's Ray task runner, each trial with its share of the processors and GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.task_runners import TaskRunner

from tasks.cluster import as_ray_counts, cluster_gpus, has_password, processors_each

RETRIES = 3  # of a trial whose worker dies: it goes on from its checkpoint


@contextmanager
def ray_runner(parallel: int) -> Iterator[TaskRunner[Any]]:
    """Runs `parallel` tasks at once on the cluster that was joined."""
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    api = _prefect_api()
    options: dict[str, Any] = {
        "num_cpus": processors_each(parallel),
        "num_gpus": min(1.0, as_ray_counts(cluster_gpus() / parallel)),
        "max_retries": RETRIES,
        "runtime_env": {"env_vars": {} if has_password(api) else {"PREFECT_API_URL": api}},
    }
    with RayTaskRunner() as runner, remote_options(**options):
        yield runner


def _prefect_api() -> str:
    """Where this process reports to, be it a server that it started itself: workers would start one of their own."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    return os.environ.get("PREFECT_API_URL") or get_current_settings().api.url or SubprocessASGIServer().api_url
