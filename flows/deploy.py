"""`labline deploy`: use cases and their schedules on a Prefect server, for the workers of a work pool."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console

from flows.accounts import check_accounts
from flows.console import print_json_line
from flows.deploying import (
    Deployments,
    deploy_all,
    deployments_of,
    make_pool_like,
    on_pool,
    read_deployments,
)
from flows.servers import make_automations
from labline.errors import BadInput
from tasks.environment import PROJECT, USECASES, load_environment


def run_deploy(usecases: Sequence[str], pool: str, kind: str, gpus: int | None, json: bool) -> None:
    """Deploy these use cases, or everything that `deployments/prefect.yaml` names, to the server in PREFECT_API_URL.

    Raises BadInput where no server is named or it refuses the account, and for a declaration that cannot be used.
    """
    store = load_environment()
    console = Console(stderr=json, highlight=False, soft_wrap=True)
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise BadInput("labline deploy needs a Prefect server: labline up brings one up, or set PREFECT_API_URL")
    check_accounts(prefect=api)
    chosen = on_pool(_chosen(usecases), pool, gpus)
    server = api.rstrip("/").removesuffix("/api")
    make_pool_like(server, kind, pool)
    environment = os.environ | {"LABLINE_PROJECT": os.environ.get("LABLINE_PROJECT", str(PROJECT))}
    with console.status(f"deploying to {api}"):
        make_automations(server)
        deploy_all(chosen, store / "deployments" / "prefect.yaml", environment)
    names = [f"{_flow(entry)}/{entry['name']}" for entry in chosen["deployments"]]
    console.print(f"{len(names)} deployments for the workers of pool {pool}: {', '.join(names)}")
    if json:
        print_json_line({"deployments": names, "pool": pool})


def _chosen(usecases: Sequence[str]) -> Deployments:
    like = read_deployments()
    if not usecases:
        return like
    from labline.declaration import load_usecase, shipped_names
    from labline.series.usecase import SeriesUseCase

    shipped = set(shipped_names(USECASES))
    described = []
    for usecase in usecases:
        declaration = load_usecase(usecase, USECASES)
        flow = "forecasting" if isinstance(declaration, SeriesUseCase) else "training"
        where = usecase if usecase in shipped else os.path.abspath(usecase)
        described.append((declaration.name, where, f"flows/{flow}.py:{flow}"))
    return deployments_of(described, shipped, like)


def _flow(entry: Deployments) -> str:
    return str(entry["entrypoint"]).rpartition(":")[2].replace("_", "-")
