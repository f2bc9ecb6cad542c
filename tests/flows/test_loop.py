"""Monitoring and retraining on real servers: healthy, drifted, retrained by a process that is killed, and back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from mlflow import MlflowClient
from outside import environment
from production import in_production, strips, traffic
from small_runs import Ended, command, invoke

from labline.chronicle import Chronicle, Told
from labline.errors import RefusedByGate
from labline.retraining import NEW, OLD, Attempt
from tasks.attempting import ending_badly, open_attempt
from tasks.chronicles import open_chronicle
from tasks.registry import Registry, open_registry
from tasks.telling import log_verdicts
from tasks.verdict_evidence import evidence_folder

NAME = "looped"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def start_retraining(servers: dict[str, str], folder: Path, verdict: dict[str, Any]) -> subprocess.Popen[bytes]:
    since = datetime.fromtimestamp(verdict["since"]).isoformat()
    line = command("retrain", NAME, "--json", "--reason", verdict["reason"], "--since", since)
    with (folder / "retraining.log").open("wb") as log:
        return subprocess.Popen(line, env=environment(servers), stdout=log, stderr=log)


def wait_until(happened: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    while not happened():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)


def unfinished_attempt() -> Attempt | None:
    attempts = open_chronicle().attempts(NAME)
    return attempts[-1] if attempts and attempts[-1].outcome == "open" else None


@dataclass(frozen=True)
class Story:
    """What each command said, in the order of what happened."""

    healthy: Ended
    again: Ended
    drifted: Ended
    killed: Attempt
    second: Ended
    promoted: list[Attempt]
    after: Ended
    nothing_new: Ended


@pytest.fixture(scope="module")
def story(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    in_production(NAME)
    traffic(NAME, *strips(400, 1001), hours_ago=6)
    healthy, again = (invoke("monitor", NAME, "--json") for _ in range(2))
    traffic(NAME, *strips(400, 1002, lighting=0.8), hours_ago=3)
    drifted = invoke("monitor", NAME, "--json", "--no-page")

    checkpoints = Path(os.environ["LABLINE_STORE"], "stages", "train")
    first = start_retraining(servers, folder, drifted.summary)
    wait_until(lambda: list(checkpoints.glob("*.partial/checkpoint.pt")), first, folder / "retraining.log")
    first.send_signal(signal.SIGKILL)
    first.wait()
    killed = unfinished_attempt()
    assert killed is not None
    resumed = start_retraining(servers, folder, drifted.summary | {"reason": "whatever is said now"})
    wait_until(lambda: (unfinished_attempt() or killed).tries == 2, resumed, folder / "retraining.log")
    second = invoke("retrain", NAME, "--json")
    assert resumed.wait(timeout=300) == 0, (folder / "retraining.log").read_text()

    traffic(NAME, *strips(300, 1003, lighting=0.8), hours_ago=0.1, labelled=0.1)
    after = invoke("monitor", NAME, "--json", "--no-page")
    nothing_new = invoke("retrain", NAME, "--json")
    return Story(healthy, again, drifted, killed, second, open_chronicle().attempts(NAME), after, nothing_new)


def test_healthy_traffic_is_healthy(story: Story) -> None:
    assert story.healthy.code == 0, story.healthy.err
    summary = story.healthy.summary
    assert (summary["verdict"], summary["version"]) == ("healthy", "1"), summary["reasons"]
    assert summary["figures"]["predictions"] == summary["figures"]["labelled"] == 400
    assert summary["figures"]["quality_problems"] == 0


def test_the_same_window_again_is_the_same_verdict_and_nothing_is_doubled(story: Story) -> None:
    first, second = story.healthy.summary, story.again.summary
    assert first["announced"] and not second["announced"]
    assert second | {"announced": True} == first
    assert len(monitoring_runs(first["id"])) == 1


def test_a_verdict_has_its_evidence_on_mlflow_and_on_the_version(story: Story) -> None:
    client, summary = MlflowClient(), story.healthy.summary
    run = client.get_run(summary["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["measured"] == pytest.approx(summary["figures"]["measured"])
    files = {file.path for file in client.list_artifacts(summary["run_id"])}
    expected = {"verdict.json", "verdict.md", "input_drift.csv", "performance_over_time.png", "drift_over_time.png"}
    assert expected | {"data_docs.html", "evidently.html"} <= files
    latest = story.drifted.summary
    tags = client.get_model_version(NAME, "1").tags
    assert (tags["labline.verdict"], tags["labline.verdict.run"]) == ("retrain", latest["run_id"])
    assert latest["reasons"][0] in tags["labline.verdict.reasons"]


def test_drift_that_costs_accuracy_is_a_verdict_of_retrain(story: Story) -> None:
    summary = story.drifted.summary
    assert summary["verdict"] == "retrain"
    assert any("accuracy" in reason for reason in summary["reasons"])
    # To within some samples: a last healthy answer that is wrong may as well be the first of the change.
    assert summary["since"] > story.healthy.summary["until"] - 5, "the window to learn begins where the change was seen"


def test_a_verdict_is_an_event_once(story: Story, servers: dict[str, str]) -> None:
    sent = events(servers, "labline.verdict", atleast=3)
    assert [each["payload"]["verdict"] for each in sent] == ["healthy", "retrain", story.after.summary["verdict"]]
    assert sent[1]["resource"]["labline.verdict"] == "retrain", "a label that triggers can match"
    assert sent[1]["payload"]["since"] == story.drifted.summary["since"]


def test_a_killed_retraining_is_gone_on_with_and_nothing_is_doubled(story: Story) -> None:
    (attempt,) = [each for each in story.promoted if each.outcome == "promoted"]
    assert (attempt.id, attempt.tries, attempt.version) == (story.killed.id, 2, "2")
    assert attempt.reason == story.drifted.summary["reason"], "the one that was begun, not that of the second call"
    assert [str(version.version) for version in open_registry(NAME).versions()] == ["2", "1"]


def test_of_two_at_once_one_ends_saying_so(story: Story) -> None:
    assert story.second.code == 0
    assert story.second.summary["outcome"] == "held"
    assert "another retraining of looped is going on" in story.second.summary["note"]


def test_the_challenger_was_judged_on_the_old_test_set_and_on_the_new_window(story: Story) -> None:
    client = MlflowClient()
    run_id = client.get_model_version(NAME, "2").run_id
    metrics = client.get_run(run_id).data.metrics
    for part in (OLD, NEW):
        name = part.replace(" ", "_")
        assert {f"{name}_champion", f"{name}_challenger"} <= metrics.keys()
    assert metrics["new_window_challenger"] > metrics["new_window_champion"] + 0.1
    tags = client.get_model_version(NAME, "2").tags
    assert tags["gates.production.accuracy-on-the-new-window"].startswith("passed")
    assert tags["gates.production.accuracy-on-the-old-test-set"].startswith("passed")


def test_the_history_says_why_it_was_promoted(story: Story) -> None:
    rows = invoke("history", NAME, "--json").summary["tenures"]
    (production,) = [row for row in rows if (row["version"], row["stage"]) == ("2", "Production")]
    assert production["why"] == f"retrained: {story.drifted.summary['reason']}"


def test_accuracy_is_back_after_the_retraining(story: Story) -> None:
    summary = story.after.summary
    assert (summary["version"], summary["verdict"]) == ("2", "healthy"), summary["reasons"]


def test_a_verdict_on_a_version_that_was_replaced_starts_nothing(story: Story) -> None:
    from flows.retraining import retraining

    ended = retraining(NAME, reason="the queue was long", version="1")
    assert (ended["outcome"], ended["note"]) == ("held", "the verdict was on version 1, and version 2 is in Production")


def test_without_new_labels_there_is_nothing_to_learn(story: Story) -> None:
    assert story.nothing_new.code == 0
    assert story.nothing_new.summary["outcome"] == "nothing"


def test_a_verdict_of_rollback_restores_the_version_before_once(story: Story) -> None:
    from flows.rolling_back import rollback

    first, second = (rollback(NAME, reason="it got worse", version="2") for _ in range(2))
    assert (first["moved"], first["production"], first["note"]) == (True, "1", "verdict: it got worse")
    assert not second["moved"] and "version 2 is not in Production any more" in second["note"]
    again = invoke(
        "promote", NAME, "--version", "2", "--to", "production", "--force", "--reason", "for the other tests"
    )
    assert again.code == 0, again.err


def test_a_challenger_that_is_worse_is_refused_and_leaves_staging(story: Story) -> None:
    from flows.retraining import promote

    attempt = Attempt(f"{NAME}-worse", NAME, "2", "a try", time.time(), 0, 1, version="1")
    open_chronicle().begin(attempt)
    with pytest.raises(RefusedByGate, match="accuracy against version 2"), ending_badly(attempt):
        promote(attempt, None)
    assert open_attempt(attempt).outcome == "refused"
    standing = open_registry(NAME).standing()
    assert (standing.production, standing.staging) == ("2", None)
    told = invoke("history", NAME, "--json").summary["unmoved"]
    assert (told[-1]["outcome"], told[-1]["why"]) == ("refused", "retrained: a try")


def test_a_loop_that_does_not_help_stops_and_says_so_once(story: Story, servers: dict[str, str]) -> None:
    chronicle = open_chronicle()
    for number in range(3):
        refused = Attempt(f"{NAME}-{number}", NAME, "2", "r", time.time() + number, 0, 1, outcome="refused")
        chronicle.begin(refused)
    for _ in range(2):
        ended = invoke("retrain", NAME, "--json")
        assert ended.summary["outcome"] == "exhausted"
        assert "retraining does not help" in ended.summary["note"]
    assert len(events(servers, "labline.retraining.exhausted", atleast=1)) == 1


def test_what_was_told_while_mlflow_was_away_is_logged_once_it_is_back(story: Story, servers: dict[str, str]) -> None:
    told = story.healthy.summary
    content = {name: told[name] for name in ("verdict", "reason", "reasons", "since", "until", "figures")}
    spooled = Told("f" * 64, NAME, "1", time.time(), "watch", content)
    evidence_folder(spooled).mkdir(parents=True)
    (evidence_folder(spooled) / "verdict.json").write_text("{}")
    chronicle = open_chronicle()
    chronicle.tell(spooled)
    line = Line(urlsplit(servers["mlflow"]).port or 0)
    through = Registry(NAME, MlflowClient(line.address, line.address), open_registry(NAME).ledger)
    with pytest.raises(Exception, match="refused|retries"):
        log_verdicts(through, chronicle)
    assert run_of(chronicle, spooled) == ""
    with line.up():
        for _ in range(2):
            log_verdicts(through, chronicle)
    assert [run.info.run_id for run in monitoring_runs(spooled.id)] == [run_of(chronicle, spooled)]


def test_a_command_waits_for_an_mlflow_server_that_is_away(story: Story, servers: dict[str, str]) -> None:
    line = Line(urlsplit(servers["mlflow"]).port or 0)
    own = environment(servers) | {"MLFLOW_TRACKING_URI": line.address}
    words = command("monitor", NAME, "--json", "--no-page")
    with subprocess.Popen(words, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = ""
        while "does not answer" not in told:
            read = process.stderr.readline()
            assert read, told
            told += read
        with line.up():
            out, err = process.communicate(timeout=200)
    assert process.returncode == 0, told + err
    assert Ended(0, out, err).summary["id"] == story.after.summary["id"], "the verdict that was told before"


@pytest.mark.parametrize("words", [("monitor", "stele"), ("retrain", "stele")])
def test_without_a_version_in_production_there_is_nothing_to_watch(story: Story, words: tuple[str, str]) -> None:
    refused = invoke(*words)
    assert refused.code == 2
    assert refused.err.count("error: ") == 1 and "no version of stele is in Production" in refused.err


def test_a_date_that_is_none_is_one_message(story: Story) -> None:
    refused = invoke("monitor", NAME, "--since", "yesterday")
    assert refused.code == 2 and "--since yesterday: expected a date such as 2026-11-24" in refused.err


def run_of(chronicle: Chronicle, told: Told) -> str:
    kept = chronicle.verdict(told.id)
    assert kept is not None
    return kept.run_id


def monitoring_runs(id: str) -> list[Any]:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`labline.verdict.id` = '{id}'"))


def events(servers: dict[str, str], name: str, atleast: int) -> list[dict[str, Any]]:
    """What the Prefect server heard, oldest first."""
    wanted = {"event": {"name": [name]}, "resource": {"id": [f"labline.model.{NAME}"]}, "order": "ASC"}
    found: list[dict[str, Any]] = []
    for _ in range(240):
        answer = httpx.post(f"{servers['prefect']}/api/events/filter", json={"filter": wanted})
        found = answer.json()["events"]
        if len(found) >= atleast:
            break
        time.sleep(0.25)
    return found


class Line:
    """A line to a server on loopback, which can be cut: while it is not `up`, connections are refused."""

    def __init__(self, port: int) -> None:
        self.port = port
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.own = int(probe.getsockname()[1])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.own}"

    @contextmanager
    def up(self) -> Iterator[None]:
        with socket.create_server(("127.0.0.1", self.own)) as listening:
            threading.Thread(target=self._serve, args=(listening,), daemon=True).start()
            yield

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                caller, _ = listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            for source, target in ((caller, server), (server, caller)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            with_no_error(end)


def with_no_error(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        end.close()
