"""The infrastructure check: a clean process, and a report whatever becomes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import torch

from labline.export.onnx import export_onnx
from labline.models import ImageClassifier, build
from tasks.infrastructure import InfrastructureReport, check_infrastructure


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small version, saved as `tasks/register.py` logs it."""
    import mlflow.onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    scratch = tmp_path_factory.mktemp("version")
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), dtype=np.uint8)
    model = ImageClassifier(build("cnn", 1, 3, 16, width=0.25), torch.full((1,), 120.0), torch.full((1,), 60.0))
    (scratch / "evaluation.json").write_text(json.dumps({"labels": ["bent", "broken", "good"]}))
    scores = [TensorSpec(np.dtype(np.float32), (-1, 3), name) for name in ("logits", "probabilities")]
    pixels = TensorSpec(np.dtype(np.uint8), (-1, 16, 16, 1), "images")
    mlflow.onnx.save_model(
        onnx.load(export_onnx(model, scratch / "model.onnx", 16, 1)),
        str(scratch / "version"),
        signature=ModelSignature(inputs=Schema([pixels]), outputs=Schema(scores)),
        input_example=images,
        pip_requirements=["onnxruntime"],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
        extra_files=[str(scratch / "evaluation.json")],
    )
    return scratch / "version"


@pytest.fixture
def copied(version: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(version, tmp_path / "version"))


@pytest.fixture
def endless(copied: Path) -> Iterator[Path]:
    """A version whose check never ends: its input example is a pipe into which nobody writes."""
    (copied / "input_example.json").unlink()
    os.mkfifo(copied / "input_example.json")
    return copied


def assert_no_answer(report: InfrastructureReport) -> None:
    assert not report.ok
    assert report.answers.shape == (0, 0)
    assert np.isnan([report.latency_ms_p50, report.latency_ms_p99]).all()


def test_a_good_version_answers_its_example_in_a_clean_process(version: Path) -> None:
    report = check_infrastructure(version)

    assert report.ok, report.problems
    assert report.problems == ()
    assert report.answers.dtype == np.float32
    assert report.answers.shape == (2, 3)
    np.testing.assert_allclose(report.answers.sum(axis=1), 1, atol=1e-5)
    assert 0 < report.latency_ms_p50 <= report.latency_ms_p99


def test_neither_the_working_directory_nor_python_settings_leak_in(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("yaml.py", "numpy.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('this file was imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    assert check_infrastructure(Path(os.path.relpath(version))).ok


def test_the_process_sees_no_setting_of_the_flow(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\nenv > "$HOME/environment"\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "LABLINE_STORE", "PYTHONPATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HOME", str(tmp_path))

    report = check_infrastructure(version)

    seen = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert {"PATH", "HOME", "OMP_NUM_THREADS"} <= seen
    assert not [name for name in seen if name.startswith(("PREFECT_", "MLFLOW_", "LABLINE_", "PYTHON"))]
    assert_no_answer(report)
    assert "ended with code 0 and without a result" in report.problems[0]


def test_the_problem_of_a_broken_version_is_passed_on(copied: Path) -> None:
    (copied / "model.onnx").write_bytes((copied / "model.onnx").read_bytes()[:1000])

    report = check_infrastructure(copied)

    assert_no_answer(report)
    assert "model.onnx cannot be loaded" in report.problems[0]


def test_answers_that_are_not_finite_are_reported_as_they_are(copied: Path) -> None:
    model = onnx.load(copied / "model.onnx")
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            array = np.full(tuple(weights.dims), np.nan, dtype=np.float32)
            weights.CopyFrom(onnx.numpy_helper.from_array(array, weights.name))
    onnx.save(model, copied / "model.onnx")

    report = check_infrastructure(copied)

    assert not report.ok
    assert "not finite" in report.problems[0]
    assert report.answers.shape == (2, 3)
    assert np.isnan(report.answers).all()


def test_no_folder_is_a_report_too(tmp_path: Path) -> None:
    report = check_infrastructure(tmp_path / "nothing-here")

    assert_no_answer(report)
    assert "folder of a registered version was expected" in report.problems[0]


def test_a_process_that_hangs_is_ended(endless: Path) -> None:
    report = check_infrastructure(endless, timeout_seconds=1)

    assert_no_answer(report)
    assert "no answer within 1 s" in report.problems[0]
    assert not checking(endless)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_dies_is_reported_with_its_signal(endless: Path, sent: signal.Signals) -> None:
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(check_infrastructure, endless)
        while not (found := checking(endless)):
            assert not pending.done()
            time.sleep(0.01)
        found[0].send_signal(sent)
        report = pending.result()

    assert_no_answer(report)
    assert f"was ended by signal {sent.name}" in report.problems[0]


def checking(folder: Path) -> list[psutil.Process]:
    """The running processes that check a folder."""
    return [process for process in psutil.process_iter(["cmdline"]) if str(folder) in (process.info["cmdline"] or ())]


def test_a_python_that_cannot_be_started_is_reported(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))

    report = check_infrastructure(version)

    assert_no_answer(report)
    assert "could not be started" in report.problems[0]
