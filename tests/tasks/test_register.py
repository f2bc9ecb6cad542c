"""Registering: once, whatever breaks off; and what stands in the registry's description column, which has an end."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pytest
from free_ports import free_ports
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from small_versions import BRIGHT, write_version

from labline.declaration import load_image_usecase
from labline.references import RegisteredVersion
from tasks.environment import USECASES
from tasks.register import log_version, shortened, still_registered

sections = st.lists(st.text(alphabet="abc \n", max_size=300), max_size=8)


def card(texts: list[str]) -> str:
    return "# Model card: steel" + "".join(f"\n\n## Section {n}\n{text}" for n, text in enumerate(texts))


@given(sections)
def test_a_card_that_fits_stays_as_it_is(texts: list[str]) -> None:
    whole = card(texts)
    assert shortened(whole, most=len(whole)) == whole


@given(sections, st.integers(200, 1000))
def test_a_long_card_keeps_whole_sections_and_says_where_the_others_are(texts: list[str], most: int) -> None:
    whole = card(texts)
    short = shortened(whole, most)
    assert len(short) <= most
    if short != whole:
        kept = short[: short.index("\n\nThe sections left out")]
        assert "`model_card.md`" in short
        assert whole.startswith(kept + "\n\n## ")


def test_the_same_file_on_the_same_run_is_one_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point_at(monkeypatch, f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow.create_experiment("once", str(tmp_path / "artifacts"))
    declaration = load_image_usecase("surface", USECASES, ["name=once"])
    signature = ModelSignature(Schema([TensorSpec(np.dtype(np.uint8), (-1, *BRIGHT.shape[1:]), "images")]))
    first, other = (write_version(tmp_path / str(contrast), contrast) / "model.onnx" for contrast in (0.01, 0.02))
    registered = []
    for released in (first, first, other):  # the second as after a connection that was lost
        run_id = registered[0][0] if registered else mlflow.MlflowClient().create_run(experiment).info.run_id
        with mlflow.start_run(run_id=run_id) as run:
            number = log_version(declaration, released, signature, BRIGHT, [])
            registered.append((run.info.run_id, number))
    assert [number for _, number in registered] == ["1", "1", "2"]


def test_a_registry_that_is_away_has_lost_no_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    version = RegisteredVersion(
        directory="", digest="once/1", model="once", version="1", run_id="", figure="models:/once/1"
    )
    point_at(monkeypatch, f"sqlite:///{tmp_path}/mlflow.db")
    assert not still_registered(version)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    point_at(monkeypatch, f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(MlflowException, match="refused|Max retries"):
        still_registered(version)


def point_at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Through the environment: what MLflow's own setters set stays set for all other tests of the process."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", address)
