"""The real data sets through the real flow, with small networks trained briefly; skipped where they are not at hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from small_runs import ingested

from flows.checking import checking
from flows.training import training

pytestmark = pytest.mark.usefixtures("servers", "real_data")

BRIEF = ["model.width=0.25", "training.epochs=3", 'cleaning.label_issues="off"', "compression.passes=[]", "gates={}"]


def test_steel() -> None:
    summary = training("steel", assignments=BRIEF)
    data = ingested("steel")
    assert data.labels == ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
    assert Counter(data.manifest["split"]) == {"train": 1260, "validation": 270, "test": 270}
    assert int(summary["version"]) >= 1
    assert summary["parity"]["decision_agreement"] == 1.0
    assert summary["metrics"]["test_accuracy"] > 1 / 6, "better than guessing one of six classes"
    assert summary["quarantined"] == 1, "one photograph is there twice"


def test_pneumonia() -> None:
    summary = training("pneumonia", assignments=BRIEF)
    data = ingested("pneumonia")
    assert data.labels == ("normal", "pneumonia")
    assert Counter(data.rows("train")["label"]) == {"normal": 388, "pneumonia": 3494}
    assert len(data.rows("validation")) == 524, "MedMNIST's own"
    assert len(data.rows("test")) == 624, "MedMNIST's own"
    assert int(summary["version"]) >= 1
    assert summary["parity"]["decision_agreement"] == 1.0
    assert summary["metrics"]["test_roc_auc"] > 0.5


def test_cifar10_keeps_its_own_test_folder(real_data: Path) -> None:
    assert checking("cifar10")["samples"] == 60_000
    data = ingested("cifar10")
    assert {"airplane", "frog", "truck"} < set(data.labels)
    assert len(data.labels) == 10
    assert Counter(data.manifest["split"]) == {"train": 45_000, "validation": 5_000, "test": 10_000}
    is_test = data.manifest["sample_id"].str.startswith("test/")
    assert (data.manifest["split"] == "test").equals(is_test)
