"""The accounts with which Prefect and MLflow are asked, and what is said where they refuse them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import httpx

from flows.processes import http
from labline.errors import BadInput, LablineError

API_SECONDS = 10.0
PREFECT_ACCOUNT = "PREFECT_API_AUTH_STRING"
MLFLOW_USER, MLFLOW_PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
MLFLOW_REFUSED = re.compile(r"error code (401|403)\b")  # https://mlflow.org/docs/latest/auth/index.html
DATABASE_REFUSED = re.compile(r"(password authentication failed|no password supplied|role .* does not exist).*")
DATABASE_ACCOUNT = "PGUSER and PGPASSWORD, or in the addresses LABLINE_LEDGER and LABLINE_FEEDBACK"


def prefect_account() -> httpx.Auth:
    """The account for the Prefect server, USER:PASSWORD in PREFECT_API_AUTH_STRING; nobody's where it is not set."""
    user, colon, password = os.environ.get(PREFECT_ACCOUNT, "").partition(":")
    return httpx.BasicAuth(user, password) if colon else httpx.Auth()


def mlflow_account() -> httpx.Auth:
    """The account for the MLflow server; nobody's where none is set."""
    user = os.environ.get(MLFLOW_USER)
    return httpx.BasicAuth(user, os.environ.get(MLFLOW_PASSWORD, "")) if user else httpx.Auth()


def check_accounts(prefect: str = "", mlflow: str = "") -> None:
    """Ask servers at these addresses, where there are any, for something that needs an account.

    Raises BadInput where one refuses it: everything later would fail in a worse place. A server that does not answer
    is no matter of accounts.
    """
    for name, page, account, variables in _questions(prefect, mlflow):
        try:
            answer = http().get(page, auth=account, timeout=API_SECONDS)
        except httpx.HTTPError:
            continue
        if answer.status_code in REFUSED:
            raise BadInput(refusal(name, page, variables))


def account_problem(error: BaseException) -> BadInput | None:
    """Say in one sentence that a server refuses an account, where that is what led to `error`; None where it is not.

    Prefect, MLflow and PostgreSQL each have their own way of saying so, deep in what their clients raise.
    """
    cause: BaseException | None = None if isinstance(error, LablineError) else error
    while cause is not None:
        if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code in REFUSED:
            return BadInput(refusal("Prefect", str(cause.request.url), PREFECT_ACCOUNT))
        family = type(cause).__module__.partition(".")[0]
        if family == "mlflow" and MLFLOW_REFUSED.search(str(cause)):
            return BadInput(
                refusal("MLflow", os.environ["MLFLOW_TRACKING_URI"], f"{MLFLOW_USER} and {MLFLOW_PASSWORD}")
            )
        if family == "psycopg" and (told := DATABASE_REFUSED.search(str(cause))):
            return BadInput(f"PostgreSQL refuses the account in {DATABASE_ACCOUNT}: {told.group(0).strip()}")
        cause = cause.__cause__ or cause.__context__
    return None


def refusal(name: str, page: str, variables: str) -> str:
    """What is said of a server that refuses an account."""
    server = httpx.URL(page)
    where = f"{server.scheme}://{server.netloc.decode().rpartition('@')[2]}"
    return f"the {name} server at {where} refuses the account in {variables}: set it, or name it in LABLINE_SECRETS"


def _questions(prefect: str, mlflow: str) -> Iterator[tuple[str, str, httpx.Auth, str]]:
    if prefect.startswith("http"):
        page = prefect.rstrip("/").removesuffix("/api") + "/api/admin/version"
        yield "Prefect", page, prefect_account(), PREFECT_ACCOUNT
    if mlflow.startswith("http"):
        page = mlflow.rstrip("/") + "/api/2.0/mlflow/experiments/get?experiment_id=0"
        yield "MLflow", page, mlflow_account(), f"{MLFLOW_USER} and {MLFLOW_PASSWORD}"
