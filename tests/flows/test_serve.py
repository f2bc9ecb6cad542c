"""`labline serve` from the command line: Production moves, breaks and disappears under load, and no request fails."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from small_runs import command, embedded
from small_versions import BRIGHT, break_weights, expected, write_version

NAME = "bright"
T = TypeVar("T")
CONTRAST = {"1": 0.001, "2": 0.002, "4": 0.004}  # 3 is broken


class Site:
    """A storage root with a registry, in which versions are registered and moved; services are started on it."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self.store = folder / "store"
        (self.store / "mlflow").mkdir(parents=True)
        self.database = self.store / "mlflow" / "mlflow.db"
        self.client = MlflowClient(f"sqlite:///{self.database}", f"sqlite:///{self.database}")
        self.client.create_registered_model(NAME)
        for number in ("1", "2", "3", "4"):
            source = write_version(folder / number, CONTRAST.get(number, 1.0), 'title = "Bright or dark"\n')
            self.client.create_model_version(NAME, str(source))
        break_weights(folder / "3")
        self.promote("1")

    def promote(self, version: str) -> None:
        """What `labline promote` and `labline rollback` do in the end."""
        self.client.set_registered_model_alias(NAME, "production", version)

    def serve(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command("serve", *arguments),
            env=embedded(self.store) | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def refused(self, *arguments: str, **variables: str) -> str:
        """What a service that must not start says."""
        service = self.serve(*arguments, "--json", **variables)
        out, err = service.communicate(timeout=60)
        assert service.returncode == 2, err
        assert "Traceback" not in err
        told = json.loads(out.splitlines()[-1])
        assert told["exit_code"] == 2
        return str(told["error"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


class Running:
    """A service that was started, and what is asked of it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        said = process.stdout.readline()
        assert said, process.stderr and process.stderr.read()
        self.where: dict[str, Any] = json.loads(said)
        self.log: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def predict(self, **headers: str) -> dict[str, Any]:
        headers["Content-Type"] = "application/octet-stream"
        asked = urllib.request.Request(self.where["address"] + "/predict", BRIGHT.tobytes(), headers)
        with urllib.request.urlopen(asked, timeout=30) as response:
            answered: dict[str, Any] = json.loads(response.read())
        return answered

    def get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.where["address"] + path, timeout=30) as response:
            answered: dict[str, Any] = json.loads(response.read())
        return answered

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.where["pid"]).children()
        return [child for child in children if "serving.worker" in child.cmdline()]

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)


@pytest.fixture
def service(site: Site) -> Iterator[Running]:
    site.promote("1")
    running = Running(site.serve(NAME, "--port", "0", "--workers", "2", "--threads", "1", "--json"))
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@contextlib.contextmanager
def clients(running: Running, number: int) -> Iterator[Counter[str]]:
    """Ask again and again, and again where a connection was cut; every answer must be right for its version."""
    answers: Counter[str] = Counter()
    failures: list[BaseException] = []
    ending = threading.Event()

    def ask() -> None:
        try:
            while not ending.is_set():
                try:
                    answered = running.predict()
                except urllib.error.HTTPError:
                    raise
                except OSError:
                    answers["cut"] += 1
                    continue
                sure = answered["probabilities"]["bright"]
                assert sure == pytest.approx(expected(CONTRAST[answered["version"]]), abs=1e-5)
                answers[answered["version"]] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert not failures


def wait_for(holds: Callable[[], T], what: str) -> T:
    deadline = time.monotonic() + 180
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within 60 s: {what}"
        time.sleep(0.05)
    return found


def test_production_moves_under_load_and_every_answer_is_right_for_the_version_it_names(
    site: Site, service: Running
) -> None:
    assert (service.where["usecase"], service.where["version"]) == (NAME, "1")
    with clients(service, 8) as answers:
        for version in ("2", "4", "1"):  # forth, forth, and back
            before = answers[version]
            site.promote(version)
            wait_for(lambda version=version, before=before: answers[version] > before, f"{version} answers")

        site.promote("3")
        wait_for(lambda: any("version 3 is not served" in line for line in service.log), "3 is refused")
        # Each worker tells what it has heard: another one may hear of it later.
        (refused,) = wait_for(lambda: service.get("/model")["refused"], "the refusal is shown")
        assert (service.get("/model")["version"], refused["version"]) == ("1", "3")
        assert "not finite" in refused["problem"]
        assert answers["cut"] == 0

        for _ in range(2):
            before = set(service.workers())
            victim = next(iter(before))
            victim.kill()
            wait_for(lambda victim=victim: not victim.is_running(), "the worker is dead")
            wait_for(lambda before=before: len(set(service.workers()) - before) == 1, "another one is started")
        site.promote("2")
        wait_for(lambda: answers["2"] > 0 and service.get("/model")["version"] == "2", "2 answers again")

    family = service.workers()
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(timeout=60) == 0
    _, left = psutil.wait_procs(family, timeout=5)
    assert not left


def test_the_registry_fails_and_the_service_stays(site: Site, service: Running) -> None:
    with contextlib.closing(sqlite3.connect(site.database)) as connection:
        connection.execute("ALTER TABLE registered_model_aliases RENAME TO away")
        try:
            wait_for(lambda: any("what is served goes on" in line for line in service.log), "the failure is told")
            assert service.predict()["version"] == "1"
        finally:
            connection.execute("ALTER TABLE away RENAME TO registered_model_aliases")
    site.promote("2")
    wait_for(lambda: service.predict()["version"] == "2", "the service follows again")


def test_a_second_service_of_a_use_case_has_its_own_port_and_may_have_its_own_version_and_key(
    site: Site, service: Running, tmp_path: Path
) -> None:
    port = service.where["address"].rpartition(":")[2]
    assert f"port {port} cannot be used" in site.refused(NAME, "--port", port)

    key = tmp_path / "key"
    key.write_text("open-sesame\n")
    arguments = [NAME, "--version", "4", "--host", "0.0.0.0", "--port", "0", "--json"]
    other = Running(site.serve(*arguments, LABLINE_SERVING_KEY_FILE=str(key)))
    try:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            other.predict()
        assert other.predict(Authorization="Bearer open-sesame")["version"] == "4"
        assert service.predict()["version"] == "1"
    finally:
        other.process.terminate()
        assert other.process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["Not A Name"], "no name of a registered use case"),
        ([NAME, "--stage", "staging"], f"nothing of {NAME} is in Staging: labline promote {NAME}"),
        ([NAME, "--stage", "prodction"], "did you mean 'production'"),
        ([NAME, "--host", "0.0.0.0"], "no key is set: set LABLINE_SERVING_KEY"),
    ],
)
def test_what_cannot_be_served_is_bad_input(site: Site, arguments: list[str], told: str) -> None:
    assert told in site.refused(*arguments, "--port", "0")


def test_before_anything_is_registered_no_database_is_made(tmp_path: Path) -> None:
    done = subprocess.run(command("serve", NAME), env=embedded(tmp_path), capture_output=True, text=True)

    assert done.returncode == 2
    assert f"nothing is registered yet in sqlite:///{tmp_path}" in done.stderr
    assert not list(tmp_path.rglob("*.db"))


def test_the_help_teaches(tmp_path: Path) -> None:
    done = subprocess.run(command("serve", "--help"), env=embedded(tmp_path), capture_output=True, text=True)

    assert done.returncode == 0
    for word in ("Production", "LABLINE_SERVING_KEY", "--canary", "labline serve steel"):
        assert word in done.stdout
