"""A version of a few nodes in Production, registered without any training, and labline beside the test's servers."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
from small_versions import write_version

SIZE = 16
DECLARATION = f"""
name = "parts"
title = "Parts"
[data]
source = "surfaces"
image_size = {SIZE}
channels = 1
[training]
epochs = 1
[serving]
unknown_labels = "accept"
"""


def register(name: str, source: Path) -> Path:
    """Register a version that tells bright images from dark ones and move it to Production; returns its folder."""
    from mlflow import MlflowClient

    folder = write_version(source, 0.05, DECLARATION, SIZE)
    pd.DataFrame().to_parquet(folder / "extra_files" / "manifest.parquet")
    client = MlflowClient()
    client.create_registered_model(name)
    client.create_model_version(name, str(folder))
    client.set_registered_model_alias(name, "production", "1")
    return folder


def environment() -> dict[str, str]:
    """What a labline process needs to find the storage root and the servers of this one."""
    return os.environ | {"PYTHONPATH": os.getcwd()}
