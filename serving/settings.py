"""What a worker process has to know, handed from the supervisor through environment variables."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from labline.errors import BadInput
from serving.limits import Limits

VARIABLE = "LABLINE_SERVING_SETTINGS"  # all but the key, as JSON
KEY, KEY_FILE = "LABLINE_SERVING_KEY", "LABLINE_SERVING_KEY_FILE"
WORKER = "LABLINE_SERVING_WORKER"
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Settings:
    """The settings of one service; every limit is of one worker process. Times are in seconds, sizes in bytes.

    What belongs to a version (batches, what is kept) is in its declaration, not here.
    """

    usecase: str
    store: Path  # LABLINE_STORE
    folder: Path  # of this instance: assignment.json and metrics/
    feedback: str  # SQLAlchemy address of the feedback store
    key: str = field(default="", repr=False)  # what clients must present; empty: nothing is asked for
    worker: str = "0"  # this worker's name, which its replacement takes over
    threads: int = 1  # of ONNX Runtime
    limits: Limits = field(default_factory=Limits)
    max_waiting: int = 512  # samples that wait for the model; with more, requests are refused with 503
    max_connections: int = 1024
    max_bodies: int = 256 * MEBIBYTE  # of large bodies in hand, together; beyond it, requests are refused with 503
    request_timeout: float = 10.0  # from the body's last byte to the model's answer
    body_timeout: float = 10.0  # for a request's headers, and again for its body
    keep_alive: int = 30
    shutdown_timeout: int = 20
    journal_bytes: int = 256 * MEBIBYTE  # of all workers together

    @property
    def journal(self) -> Path:
        """Where the workers of all instances of the use case keep what is not in the feedback store yet."""
        return self.store / "serving" / self.usecase / "journal"

    @property
    def metrics(self) -> Path:
        """Where the workers of this instance count, so that any of them can tell the sum."""
        return self.folder / "metrics"

    def to_environment(self) -> dict[str, str]:
        """The variables that `from_environment` reads back; the key goes in a variable of its own."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        key, worker = values.pop("key"), values.pop("worker")
        return {VARIABLE: json.dumps(values), WORKER: worker} | ({KEY: key} if key else {})


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings that `Settings.to_environment` wrote; raises BadInput where they are missing or of another shape."""
    try:
        values: dict[str, Any] = json.loads(environment[VARIABLE])
        values |= {name: Path(values[name]) for name in ("store", "folder")}
        values["limits"] = Limits(**values["limits"])
    except (KeyError, ValueError, TypeError) as error:
        raise BadInput(
            f"{VARIABLE} must hold the settings that labline serve writes ({type(error).__name__}: {error}): "
            "start the service with labline serve"
        ) from error
    if unknown := set(values) - {known.name for known in fields(Settings)}:
        raise BadInput(f"{VARIABLE} has the unknown settings {', '.join(sorted(unknown))}: restart labline serve")
    return Settings(**values, key=configured_key(environment), worker=environment.get(WORKER, "0"))


def configured_key(environment: Mapping[str, str] = os.environ) -> str:
    """The key that clients must present, from LABLINE_SERVING_KEY or the file LABLINE_SERVING_KEY_FILE; "" for none.

    Raises BadInput where the file cannot be read, or where the key is empty, not ASCII or has spaces in it.
    """
    if KEY not in environment and KEY_FILE not in environment:
        return ""
    where = KEY if KEY in environment else f"{KEY_FILE}={environment[KEY_FILE]}"
    try:
        key = environment[KEY] if KEY in environment else Path(environment[KEY_FILE]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{where} cannot be read: {error}. A text file with the key alone was expected.") from error
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise BadInput(
            f"{where}: one word of printable ASCII was expected; python -c 'import secrets; "
            "print(secrets.token_urlsafe())' makes one"
        )
    return key
