"""Bringing a registered version here: by number and by alias, and what is refused with what words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labline.errors import BadInput
from labline.packaged_model import open_model
from serving.fetching import fetch


@pytest.mark.usefixtures("registry")
def test_a_registered_version_is_fetched_by_number_and_by_alias(
    versions: dict[str, Path], images: np.ndarray, tmp_path: Path
) -> None:
    import mlflow

    name = "fetched"
    client = mlflow.MlflowClient()
    client.create_registered_model(name)
    client.create_model_version(name, str(versions["int8-static"]))
    client.set_registered_model_alias(name, "production", "1")
    expected = open_model(versions["int8-static"]).predict(images)

    for uri, folder in ((f"models:/{name}/1", "number"), (f"models:/{name}@production", "deep/alias")):
        fetched = fetch(uri, tmp_path / folder)
        assert fetched.is_relative_to(tmp_path / folder)
        np.testing.assert_array_equal(open_model(fetched).predict(images), expected)

    with pytest.raises(BadInput, match="an empty folder was expected"):
        fetch(f"models:/{name}/1", tmp_path / "number")
    for uri in (f"models:/{name}/2", f"models:/{name}@champion", "models:/nobody/1"):
        with pytest.raises(BadInput, match="is not in the registry"):
            fetch(uri, tmp_path / "nothing")


@pytest.mark.usefixtures("registry")
def test_a_version_whose_files_are_gone_is_named(tmp_path: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("gone")
    client.create_model_version("gone", str(tmp_path / "deleted"))

    with pytest.raises(BadInput, match="models:/gone/1 is registered, but its files are gone"):
        fetch("models:/gone/1", tmp_path / "destination")


@pytest.mark.parametrize("uri", ["models:/steel/Production", "models:/steel", "runs:/1/model", "models:/a/b/1", "/x"])
def test_other_addresses_are_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="models:/NAME/VERSION"):
        fetch(uri, tmp_path)
