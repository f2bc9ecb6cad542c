"""Bringing a registered version here, from whatever registry MLflow's settings name."""

from __future__ import annotations

import re
from pathlib import Path

from labline.errors import BadInput, LablineError

MODEL_URI = re.compile(r"models:/[^/@]+(/\d+|@[^/@]+)")


def fetch(model_uri: str, destination: Path) -> Path:
    """Download `models:/NAME/VERSION` or `models:/NAME@ALIAS` into a new or empty folder; returns where it lies.

    The registry is the one MLflow's settings name (`MLFLOW_TRACKING_URI`, `MLFLOW_REGISTRY_URI`). Raises BadInput
    for an address of another form, for a version, alias or file that is not there and for a folder in use, and
    LablineError where the registry cannot be asked.
    """
    if not MODEL_URI.fullmatch(model_uri):
        raise BadInput(f"{model_uri!r}: models:/NAME/VERSION (as models:/steel/3) or models:/NAME@ALIAS was expected")
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    destination.mkdir(parents=True, exist_ok=True)
    if any(destination.iterdir()):
        raise BadInput(f"{destination}: an empty folder was expected: the files of two versions would be mixed")
    try:
        fetched = Path(download_artifacts(artifact_uri=model_uri, dst_path=str(destination)))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise BadInput(
                f"{model_uri} is not in the registry: {error.message}. The Models page of labline ui lists what is."
            ) from error
        raise LablineError(f"{model_uri} cannot be fetched: {error.message}. Is the MLflow server up?") from error
    except OSError as error:
        raise BadInput(f"{model_uri} is registered, but its files cannot be copied: {error}") from error
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "boto3")):
            raise
        raise LablineError(f"{model_uri} is registered, but its files cannot be fetched from S3: {error}") from error
    if not (fetched / "MLmodel").is_file():  # MLflow calls a folder that is gone a successful download of nothing
        raise BadInput(f"{model_uri} is registered, but its files are gone. Register the version anew.")
    return fetched
