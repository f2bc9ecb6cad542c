"""What `deployments/prefect.yaml` says of the shipped use cases, said of one's own, and of other work pools.

Prefect takes what it finds in a file and is silent about the rest: so the file is read, completed, written into the
storage root, and deployed from there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from labline.errors import BadInput, LablineError, nearest
from tasks.environment import PROJECT

if TYPE_CHECKING:
    import httpx

DEPLOYMENTS = PROJECT / "deployments" / "prefect.yaml"
POOLS = PROJECT / "deployments" / "pools"
LOCAL = "local"
TRAINING, MONITORING = "training", "monitoring"  # the definitions of which every use case has one
MINUTES = 60
SERVICE_UNAVAILABLE, TRIES = 503, 20
Deployments = dict[str, Any]


def read_deployments() -> Deployments:
    """The project's own: what `prefect.yaml` holds, with its anchors filled in."""
    import yaml  # type: ignore[import-untyped]

    loaded: Deployments = yaml.safe_load(DEPLOYMENTS.read_text())
    return loaded


def deployments_of(usecases: Sequence[tuple[str, str, str]], shipped: set[str], like: Deployments) -> Deployments:
    """Those of some use cases alone, each as (name, declaration's path, entrypoint of its training flow).

    Each gets a training and, where it is not shipped and watched already, a monitoring of its own, every hour at a
    minute that its name decides: so that a hundred of them do not begin at once.
    """
    chosen = []
    for name, declaration, entrypoint in usecases:
        training = deepcopy(like["definitions"][TRAINING])
        chosen.append(training | {"name": name, "entrypoint": entrypoint, "parameters": {"usecase": declaration}})
        if name in shipped:
            continue
        watching = deepcopy(next(entry for entry in like["deployments"] if entry["name"] == MONITORING))
        parameters = {"usecase": name, "required": False}
        schedule = {"cron": f"{crc32(name.encode()) % MINUTES} * * * *", "slug": name, "parameters": parameters}
        chosen.append(watching | {"name": name, "parameters": parameters, "schedules": [schedule]})
    return {**like, "deployments": chosen}


def on_pool(deployments: Deployments, pool: str, gpus: int | None) -> Deployments:
    """The same on a work pool; `gpus` are those of each run of the GPU queue, None: as they are declared."""
    moved = deepcopy(deployments)
    for entry in moved["deployments"]:
        entry["work_pool"]["name"] = pool
        variables = entry["work_pool"].get("job_variables", {})
        if gpus is not None and "gpus" in variables:
            variables["gpus"] = gpus
    return moved


def pool_kinds() -> dict[str, Path]:
    """The kinds of work pool that there is a job template for, by their name."""
    return {path.stem: path for path in sorted(POOLS.glob("*.json"))}


def make_pool_like(prefect: str, kind: str, pool: str) -> None:
    """Make a work pool of a kind, where there is none of its name; one that is there gets the template of today.

    Raises BadInput for a kind that there is no template for, LablineError where the server refuses it.
    """
    import httpx

    from flows.accounts import API_SECONDS, prefect_account

    if kind not in pool_kinds():
        raise BadInput(f"--kind {kind}: no such kind of work pool; {nearest(kind, pool_kinds())}")
    template = json.loads(pool_kinds()[kind].read_text())
    try:
        with httpx.Client(base_url=f"{prefect}/api", auth=prefect_account(), timeout=API_SECONDS) as client:
            described = {"name": pool, "type": kind, "base_job_template": template}
            answer = _patiently(lambda: client.post("/work_pools/", json=described))
            if answer.status_code == httpx.codes.CONFLICT:
                newer = {"base_job_template": template}
                answer = _patiently(lambda: client.patch(f"/work_pools/{pool}", json=newer))
            answer.raise_for_status()
    except httpx.HTTPError as error:
        raise LablineError(f"the Prefect server at {prefect} makes no work pool {pool}: {error}") from error


def _patiently(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask again, as Prefect's own clients do, while its database is locked by somebody else."""
    for _ in range(TRIES):
        answer = ask()
        if answer.status_code != SERVICE_UNAVAILABLE:
            break
        time.sleep(1)
    return answer


def deploy_all(deployments: Deployments, written: Path, environment: dict[str, str]) -> None:
    """Write the deployments to a file, and tell the Prefect server that the environment names of all of them.

    Raises LablineError with what `prefect deploy` said last where it fails.
    """
    import yaml

    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(yaml.safe_dump(deployments, sort_keys=False))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(written)]
    ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        told = (ended.stdout + ended.stderr).strip().splitlines()
        raise LablineError(f"{written} could not be deployed: {told[-1].strip() if told else 'prefect said nothing'}")
