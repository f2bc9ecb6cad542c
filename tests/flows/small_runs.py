"""What the flow tests share: small settings, and labline as a process of its own."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner

if TYPE_CHECKING:
    import pandas as pd

    from labline.data.dataset import Dataset

SMALL = [
    "data.options={samples=600, duplicates=0.02, blank=0.01}",
    "data.image_size=32",
    "training.epochs=3",
    "model.width=0.25",
    'cleaning.label_issues="off"',
    'compression.passes=["int8-static"]',
    'export.formats=["onnx"]',  # converting to TensorFlow Lite takes as long as all the rest
    "gates={}",
]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON object on the last line of standard output."""
        loaded: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return loaded


def command(*arguments: str) -> list[str]:
    """The command line of labline, as its console script runs it."""
    return [sys.executable, "-c", "from flows.cli import main; main()", *arguments]


def invoke(*arguments: str) -> Ended:
    """Run a labline command in this process, where the servers of the test session are at hand."""
    from flows.cli import app

    ended = CliRunner().invoke(app, arguments)
    assert "Traceback" not in ended.stderr, ended.stderr
    return Ended(ended.exit_code, ended.stdout, ended.stderr)


def ingested(usecase: str) -> Dataset:
    """The dataset that ingest made last for a use case; its quarantine lies beside it."""
    from labline.data.dataset import open_dataset
    from tasks.environment import storage_root

    keys = storage_root().glob("stages/ingest/*/key.json")
    folders = [path.parent for path in keys if json.loads(path.read_text())["usecase"] == usecase]
    return open_dataset(max(folders, key=lambda folder: folder.stat().st_mtime))


def written_table(usecase: str, stage: str, name: str) -> pd.DataFrame:
    """A table that a stage wrote last for a use case."""
    import pandas as pd

    from tasks.environment import storage_root

    keys = storage_root().glob(f"stages/{stage}/*/key.json")
    folders = [path.parent for path in keys if json.loads(path.read_text())["usecase"] == usecase]
    return pd.read_parquet(max(folders, key=lambda folder: folder.stat().st_mtime) / f"{name}.parquet")


def embedded(store: Path) -> dict[str, str]:
    """The environment of a user who has set nothing but a storage root."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "LABLINE_"))}
    return kept | {"LABLINE_STORE": str(store), "PYTHONPATH": os.getcwd()}
