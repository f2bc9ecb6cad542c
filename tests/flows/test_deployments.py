"""deployments/prefect.yaml, deployed to a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitStrategy


def test_every_use_case_and_promotion_deploys(servers: dict[str, str]) -> None:
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    environment = os.environ | {"LABLINE_PROJECT": str(Path.cwd())}
    subprocess.run(
        [*prefect, "work-pool", "create", "local", "--type", "process", "--overwrite"], check=True, env=environment
    )
    subprocess.run(
        [*prefect, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml"], check=True, env=environment
    )
    with get_client(sync_client=True) as client:
        deployed = {deployment.name: deployment for deployment in client.read_deployments()}
    for name in [path.stem for path in Path("usecases").glob("*.toml")]:
        flow = "forecasting.py:forecasting" if name == "volatility" else "training.py:training"
        assert deployed[name].entrypoint == f"flows/{flow}"
        assert deployed[name].parameters == {"usecase": name}
    assert deployed["promotion"].entrypoint == "flows/promotion.py:promotion"
    for deployment in deployed.values():
        # A second run waits for the first one.
        assert deployment.global_concurrency_limit and deployment.global_concurrency_limit.limit == 1
        assert deployment.concurrency_options
        assert deployment.concurrency_options.collision_strategy == ConcurrencyLimitStrategy.ENQUEUE
