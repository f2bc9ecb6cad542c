"""Small real versions, to be served, and a registry to have them in."""

from __future__ import annotations

import pytest
from saved_forecasters import forecasters, windows
from saved_versions import classifier, copied, export_network, images, version, versions

__all__ = ["classifier", "copied", "export_network", "forecasters", "images", "version", "versions", "windows"]


@pytest.fixture(scope="session")
def registry_address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MLflow's own store on SQLite, for many tests: making its tables takes seconds."""
    from mlflow import MlflowClient

    address = f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"
    MlflowClient(address, address).search_registered_models()
    return address


@pytest.fixture
def registry(registry_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered goes there, and is found there."""
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(variable, registry_address)
