"""Where things are kept and which servers are used: `mlflow.env`, overridden by real environment variables.

Loaded before Prefect or MLflow is imported, since both read their settings from the environment. A storage root of
`s3://bucket/prefix` has a folder of this machine in front of it, its cache: everything works in that folder, and
`tasks.sharing` carries what is finished between it and the bucket.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from labline.errors import BadInput, LablineError
from tasks.secrets import load_secrets

PROJECT = Path(__file__).resolve().parent.parent
USECASES = PROJECT / "usecases"
EXPECTATIONS = PROJECT / "expectations"
FREE_BYTES_NEEDED = 200 * 2**20
PROBE_BYTES = 2**20
# What a write meets where no room is left or none is given; SQLite's codes: https://sqlite.org/rescode.html
OUT_OF_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
SQLITE_OUT_OF_STORAGE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY}
# What LABLINE_STORE named, once it is replaced by the cache: child processes find both in their environment.
URL = "LABLINE_STORE_URL"
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
S3_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#]*)?")


def load_environment() -> Path:
    """Fill in the environment from `mlflow.env` and return the storage root, which exists and is writable.

    Of `s3://…` this is the cache; the bucket itself is not asked before something is looked for in it. Raises BadInput
    when the storage root cannot be used.
    """
    from dotenv import dotenv_values, load_dotenv

    settings = PROJECT / "mlflow.env"
    declared = os.environ.get("LABLINE_STORE") or dotenv_values(settings).get("LABLINE_STORE") or ".labline"
    url = _object_storage_url(declared)
    store = _cache(url) if url else _local_path(declared)
    os.environ["LABLINE_STORE"] = str(store)
    if url:
        os.environ[URL] = url
    for name, value in (_servers_that_are_up(store) | _object_storage_defaults(object_storage_url())).items():
        os.environ.setdefault(name, value)
    load_secrets()
    load_dotenv(settings, override=False)
    # Threads that spin while they wait starve each other as soon as another process wants the cores: measured
    # here, two trainings side by side ran five times slower than with sleeping ones. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name, value in _prefect_defaults(store).items():
        os.environ.setdefault(name, value)
    _check_writable(store)
    return store


def storage_root() -> Path:
    """The storage root of a loaded environment."""
    return Path(os.environ["LABLINE_STORE"])


def object_storage_url() -> str:
    """The `s3://…` behind the storage root of a loaded environment; empty where that is a local folder."""
    url = os.environ.get(URL, "")
    # Whoever sets LABLINE_STORE anew for a child process means that, and not what stood behind the old one.
    return url if url and Path(os.environ.get("LABLINE_STORE", "")) == _cache(url) else ""


def local_databases() -> dict[str, str]:
    """The databases that are files of this machine, in the storage root, by variable."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "LABLINE_LEDGER", "LABLINE_FEEDBACK", "LABLINE_TUNING")
    addresses = {name: os.environ.get(name, "") for name in names}
    within = f"sqlite:///{storage_root()}/"
    return {name: address for name, address in addresses.items() if address.startswith(within)}


def _servers_that_are_up(store: Path) -> dict[str, str]:
    """The addresses of the servers that `labline up` keeps running on this storage root, by variable."""
    from tasks.running import STATE, addresses

    return addresses(store) if (store / STATE).exists() else {}


def _object_storage_url(declared: str) -> str:
    """The `s3://…` that is declared, without a slash at its end; empty for a local folder."""
    if not declared.startswith("s3://"):
        return ""
    if not S3_URL.fullmatch(declared):
        raise BadInput("LABLINE_STORE starts with s3:// and is no address of a bucket: s3://bucket/prefix was expected")
    if find_spec("s3fs") is None or find_spec("boto3") is None:
        raise BadInput(
            f"LABLINE_STORE is {declared!r}, for which s3fs and boto3 are missing: pip install 'labline[s3]'"
        )
    return declared.rstrip("/")


def _cache(url: str) -> Path:
    """The folder of this machine that stands for an object storage: one of its own for each address."""
    parent = os.environ.get("LABLINE_CACHE") or ".labline/cache"
    bucket = url.removeprefix("s3://").partition("/")[0]
    return _local_path(parent) / f"{bucket}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _object_storage_defaults(url: str) -> dict[str, str]:
    """What MLflow and botocore need to work on the same object storage as labline."""
    if not url:
        return {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return {
        "LABLINE_MLFLOW_ARTIFACTS": f"{url}/mlflow/artifacts",
        # What passes by itself is tried again, after 1, 2 and 4 seconds at most, times a random part of one.
        "AWS_RETRY_MODE": "standard",
        "AWS_MAX_ATTEMPTS": "4",
        **({"MLFLOW_S3_ENDPOINT_URL": endpoint} if endpoint else {}),
    }


def _local_path(declared: str) -> Path:
    scheme, separator, rest = declared.partition("://")
    if separator and scheme != "file":
        raise BadInput(
            f"LABLINE_STORE is {declared!r}: a local folder or s3://bucket/prefix was expected, not {scheme}://"
        )
    path = Path(rest if separator else declared).expanduser()
    return path if path.is_absolute() else PROJECT / path


def _prefect_defaults(store: Path) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(store / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(store / "prefect" / "results"),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # The console belongs to labline; the Prefect UI still gets every log line.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "labline,tasks",
        "PREFECT_API_DATABASE_TIMEOUT": "60",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
    }


def _check_writable(store: Path) -> None:
    reason = _refusal(store)
    if reason:
        raise BadInput(_unwritable(store, reason))
    free = shutil.disk_usage(store).free
    if free < FREE_BYTES_NEEDED:
        raise BadInput(
            f"the storage root {store} is full: {free / 2**20:.0f} MiB are free, at least "
            f"{FREE_BYTES_NEEDED / 2**20:.0f} MiB are needed; free space or set {_variable()} to another folder"
        )


def storage_problem(error: BaseException) -> BadInput | None:
    """Say in one sentence that the storage root cannot be used, where that is what led to `error`.

    Prefect and MLflow turn the same full disk into many errors, and one of their servers that meets it answers
    with an internal error that names no cause: so the chain of errors is read, and then the storage root is tried.
    None for what labline said itself, for Ctrl-C, and before the environment is loaded.
    """
    store = os.environ.get("LABLINE_STORE")
    if not store or isinstance(error, LablineError) or not isinstance(error, Exception):
        return None
    if url := object_storage_url():
        from tasks.object_storage import explained

        if refused := next(filter(None, (explained(cause, url) for cause in chain(error))), None):
            return refused
    told = (_out_of_storage(cause) for cause in chain(error))
    reason = next(filter(None, told), "") or _refusal(Path(store))
    return BadInput(_unwritable(Path(store), reason)) if reason else None


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _out_of_storage(error: BaseException) -> str:
    """What an error says of a full or read-only storage; empty where it speaks of something else."""
    if isinstance(error, OSError) and error.errno in OUT_OF_STORAGE:
        return os.strerror(error.errno)
    # Extended codes hold the plain one in their lowest byte.
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in SQLITE_OUT_OF_STORAGE:
        return str(error)
    return ""


def _refusal(store: Path) -> str:
    """Why nothing can be written to the storage root; empty where it can."""
    probe = store / f".probe-{os.getpid()}"
    try:
        store.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    return ""


def _unwritable(store: Path, reason: str) -> str:
    return (
        f"the storage root {store} cannot be written ({reason}): free space, or set {_variable()} to a writable folder"
    )


def _variable() -> str:
    return "LABLINE_CACHE" if object_storage_url() else "LABLINE_STORE"
