"""`labline promote --wait-for-approval`: a run that asks a person in Prefect, and holds no worker while it waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from mlflow import MlflowClient
from outside import labline, needs_chromium, page, prefect, worker
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.states import AwaitingRetry
from small_runs import SMALL, invoke

from flows.training import training

NAME, POOL = "asked-about", "askers"
SHORT = 3 / 3600  # hours: over before anybody could answer


@dataclass(frozen=True)
class Asked:
    """Three promotions to Staging that were judged and wait for an answer, while no worker is there."""

    to_approve: UUID  # of version 1
    to_reject: UUID  # of version 2
    unanswered: UUID  # of version 2
    processes: list[psutil.Process]  # that the worker had left when all three waited
    home: Path


@pytest.fixture(scope="module")
def asked(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Asked:
    for changed in ([], ["training.epochs=1"]):
        training("surface", assignments=[*SMALL, f"name={NAME}", *changed])
    home = tmp_path_factory.mktemp("workers")
    prefect(servers, home, "work-pool", "create", POOL, "--type", "process")
    deployments = ["--prefect-file", "deployments/prefect.yaml", "--name", "promotion"]
    prefect(servers, home, "deploy", *deployments, "--pool", POOL)
    with worker(servers, POOL, home / "first") as process:
        unanswered = waiting(request(version="2", approval_hours=SHORT))
        to_reject = waiting(request(version="2"))
        words = ("--version", "1", "--reason", "line 2 needs it", "--who", "anna", "--wait-for-approval", "--json")
        handed_over = labline(servers, "promote", NAME, *words)
        assert handed_over.code == 0, handed_over.err
        address = handed_over.summary["flow_run"]
        assert address.startswith(servers["prefect"])
        to_approve = waiting(UUID(address.split("/")[-1]))
        _, alive = psutil.wait_procs(process.children(recursive=True), timeout=60)
    return Asked(to_approve, to_reject, unanswered, alive, home)


def request(**parameters: Any) -> UUID:
    """Start the deployment, as its page in Prefect does."""
    asking = {"usecase": NAME, "to": "staging", "wait_for_approval": True, **parameters}
    started: Any = run_deployment("promotion/promotion", parameters=asking, timeout=0)
    return UUID(str(started.id))


def flow_run(run: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run)


def state_of(run: UUID, reached: Callable[[State], bool]) -> State:
    """The state of a flow run, as soon as it is one that was waited for."""
    for _ in range(1200):
        state = flow_run(run).state
        if state is not None and reached(state):
            return state
        time.sleep(0.25)
    raise AssertionError(f"flow run {run} stays {state}")


def waiting(run: UUID) -> UUID:
    """The run, when it is suspended or has been."""
    state_of(run, lambda state: state.name == "Suspended" or state.is_final())
    return run


def ended(run: UUID, servers: dict[str, str], home: Path) -> State:
    """How a run ends once there is a worker again, on another machine as it were."""
    with worker(servers, POOL, home):
        return state_of(run, lambda state: state.is_final())


def answer(run: UUID, **given: Any) -> None:
    with get_client(sync_client=True) as client:
        client.resume_flow_run(run, run_input=given)


def stage_of(version: str) -> str:
    return str(MlflowClient().get_model_version(NAME, version).current_stage)


def told(version: str, outcome: str) -> list[dict[str, Any]]:
    """What the history says of a version besides its stages."""
    rows = invoke("history", NAME, "--json").summary["unmoved"]
    return [row for row in rows if (row["version"], row["outcome"]) == (version, outcome)]


def test_no_process_waits_for_the_answer(asked: Asked) -> None:
    assert asked.processes == []
    assert flow_run(asked.to_approve).state_name == "Suspended"
    assert (stage_of("1"), stage_of("2")) == ("None", "None")


def test_the_person_has_the_table_of_gates_in_front_of_them(asked: Asked) -> None:
    state = flow_run(asked.to_approve).state
    assert state is not None
    with get_client(sync_client=True) as client:
        text = client.read_flow_run_input(asked.to_approve, state.state_details.run_input_keyset["description"])
    assert NAME in text and "line 2 needs it" in text
    for gate in ("ONNX parity", "infrastructure"):
        assert f"| {gate} |" in text


def test_a_yes_promotes_the_version_that_was_judged(asked: Asked, servers: dict[str, str]) -> None:
    answer(asked.to_approve, approved=True, reason="looked at the slices", who="berta")
    assert ended(asked.to_approve, servers, asked.home / "second").is_completed()
    assert stage_of("1") == "Staging"
    assert MlflowClient().get_registered_model(NAME).aliases == {"staging": 1}
    (question,) = told("1", "asked")
    assert question["who"] == "anna" and "line 2 needs it" in question["why"]
    (tenure,) = invoke("history", NAME, "--json").summary["tenures"]
    assert (tenure["who"], tenure["why"]) == ("berta", "looked at the slices")


def test_it_is_judged_once(asked: Asked, servers: dict[str, str]) -> None:
    """Runs after the yes: another worker has found the table that the first had made."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [asked.to_approve]}))
    states = {name: sorted(run.state_name for run in runs if run.name == name) for name in ("choose", "judge")}
    assert states == {"choose": ["Cached", "Completed"], "judge": ["Cached", "Completed"]}


@needs_chromium
def test_a_no_in_the_page_rejects_it(asked: Asked, servers: dict[str, str]) -> None:
    with page() as browser:
        browser.goto(f"{servers['prefect']}/runs/flow-run/{asked.to_reject}")
        browser.get_by_role("button", name="Resume").click()
        form = browser.locator(".p-modal__card")
        form.get_by_text("ONNX parity").wait_for()
        reason, who = form.locator("textarea").all()  # the switch beside "Approved" is left as it is: off
        reason.fill("the blur is too bad")
        who.fill("carl")
        form.get_by_role("button", name="Submit").click()
        browser.get_by_text("Flow run resumed").first.wait_for()
    state = ended(asked.to_reject, servers, asked.home / "third")
    assert state.is_failed() and "the blur is too bad" in str(state.message)
    assert stage_of("2") == "None"
    (rejected,) = told("2", "rejected")
    assert (rejected["who"], rejected["why"]) == ("carl", "the blur is too bad")


def test_no_answer_in_time_is_a_no_that_stays(asked: Asked, servers: dict[str, str]) -> None:
    state = state_of(asked.unanswered, lambda state: state.is_final())
    assert state.is_failed()
    (question,) = told("2", "timed out")
    assert str(asked.unanswered) in question["why"]

    answer(asked.unanswered, approved=True)
    assert flow_run(asked.unanswered).state_name == "Failed", "it is too late"
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(asked.unanswered, AwaitingRetry())  # the button Retry
    state = ended(asked.unanswered, servers, asked.home / "fourth")
    assert state.is_failed() and "was settled" in str(state.message)
    assert stage_of("2") == "None"
