"""deployments/prefect.yaml, deployed to a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import get_client


def test_every_use_case_deploys(servers: dict[str, str]) -> None:
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
    assert set(deployed) >= {path.stem for path in Path("usecases").glob("*.toml")}
    for name, deployment in deployed.items():
        assert deployment.entrypoint == "flows/training.py:training"
        assert deployment.parameters == {"usecase": name}
