"""What the registry says: which version an alias names. The only part of the service that imports MLflow to ask."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labline.errors import BadInput, LablineError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

# The poll has a second: a server that hangs is a server that is down. mlflow.env and the environment win.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
REFUSED = re.compile(r"error code (401|403)\b")  # https://mlflow.org/docs/latest/auth/index.html


@dataclass(frozen=True)
class Registered:
    """A version as it is registered.

    `digest` tells it from another of the same number: MLflow gives the number of a deleted newest version away
    again, and a model that was deleted and registered anew begins at 1.
    """

    version: str
    digest: str


class Registry:
    """One registered model in the registry that MLflow's settings name.

    Every question raises LablineError where the registry does not answer, and BadInput where it knows no such model or
    refuses the account.
    """

    def __init__(self, usecase: str) -> None:
        self.usecase = usecase
        self._opened: MlflowClient | None = None

    def named(self, alias: str) -> Registered | None:
        """The version that an alias names; None where the model is registered and has no such alias."""
        from mlflow.exceptions import MlflowException

        try:
            return _registered(self._client().get_model_version_by_alias(self.usecase, alias))
        except MlflowException as error:
            if error.error_code in ABSENT and alias not in self._aliases():
                return None
            raise self._silent(error) from error
        except Exception as error:
            raise self._silent(error) from error

    def version(self, number: str) -> Registered:
        """One version; raises BadInput where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return _registered(self._client().get_model_version(self.usecase, number))
        except MlflowException as error:
            if error.error_code in ABSENT:
                raise BadInput(f"{self.usecase} has no version {number}: labline ui shows those there are") from error
            raise self._silent(error) from error
        except Exception as error:
            raise self._silent(error) from error

    def _client(self) -> MlflowClient:
        if self._opened is None:
            for name, value in IMPATIENT.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            self._opened = MlflowClient()
        return self._opened

    def _aliases(self) -> dict[str, str]:
        """All of them: a deleted alias and a deleted model answer alike."""
        from mlflow.exceptions import MlflowException

        try:
            return dict(self._client().get_registered_model(self.usecase).aliases)
        except MlflowException as error:
            if error.error_code in ABSENT:
                raise BadInput(
                    f"{self.usecase} is not registered in {address()}: labline run {self.usecase} registers it"
                ) from error
            raise self._silent(error) from error

    def _silent(self, error: Exception) -> LablineError:
        if isinstance(error, LablineError):
            return error
        if REFUSED.search(str(error)):
            account = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            return BadInput(f"the registry {address()} refuses the account in {account}: set it, or LABLINE_SECRETS")
        told = str(error).strip().partition("\n")[0]
        return LablineError(f"the registry {address()} does not answer ({type(error).__name__}: {told:.300})")


def address() -> str:
    """Where the registry is, without a password."""
    uri = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI") or "of MLflow's default"
    scheme, separator, rest = uri.partition("://")
    return scheme + separator + rest.rpartition("@")[2] if separator else uri


def _registered(found: ModelVersion) -> Registered:
    told = f"{found.creation_timestamp} {found.source} {found.run_id}"
    return Registered(str(found.version), hashlib.blake2b(told.encode(), digest_size=4).hexdigest())
