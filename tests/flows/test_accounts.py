"""Accounts of Prefect, MLflow and PostgreSQL: where they come from, and what is said where one is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import psycopg
import pytest
from free_ports import free_port

from flows.accounts import account_problem, check_accounts, mlflow_account, prefect_account
from labline.errors import BadInput, LablineError


class Refusing(BaseHTTPRequestHandler):
    """Answers nobody but labline with the password right."""

    def do_GET(self) -> None:
        admitted = self.headers.get("Authorization") == "Basic bGFibGluZTpyaWdodA=="  # labline:right
        self.send_response(200 if admitted else 401)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", free_port()), Refusing) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{refusing.server_port}"
        refusing.shutdown()


def test_the_right_account_passes_and_a_wrong_one_is_bad_input(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "labline:right")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "labline")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "right")
    check_accounts(f"{server}/api", server)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "outdated")
    with pytest.raises(BadInput, match="the MLflow server at http://127.0.0.1:.* refuses .* MLFLOW_TRACKING_PASSWORD"):
        check_accounts(f"{server}/api", server)
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")
    with pytest.raises(BadInput, match="the Prefect server .* refuses the account in PREFECT_API_AUTH_STRING"):
        check_accounts(f"{server}/api", server)


def test_a_server_that_is_away_is_no_matter_of_accounts() -> None:
    check_accounts(f"http://127.0.0.1:{free_port()}/api", "sqlite:///mlflow.db")


def test_where_none_is_set_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    for account in (prefect_account(), mlflow_account()):
        (sent,) = account.sync_auth_flow(httpx.Request("GET", "http://127.0.0.1"))
        assert "authorization" not in sent.headers


def test_a_refusal_is_found_however_deep_it_is(server: str) -> None:
    try:
        try:
            httpx.get(server.replace("//", "//labline:secret@")).raise_for_status()
        except httpx.HTTPStatusError as error:
            raise RuntimeError("a flow could not be run") from error
    except RuntimeError as error:
        problem = account_problem(error)
    assert problem is not None and problem.exit_code == 2
    assert "the Prefect server at http://127.0.0.1" in str(problem)
    assert "secret" not in str(problem)


def test_postgresql_tells_a_wrong_password_from_being_away() -> None:
    refused = psycopg.OperationalError('connection failed: FATAL:  password authentication failed for user "labline"\n')
    assert "PGPASSWORD" in str(account_problem(refused))
    assert account_problem(psycopg.OperationalError("connection refused")) is None


def test_other_errors_are_something_else() -> None:
    assert account_problem(LablineError("401")) is None
    assert account_problem(ValueError("error code 401")) is None
