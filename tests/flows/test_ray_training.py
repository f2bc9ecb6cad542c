"""Training on Ray: two workers learn what one process does, and go on when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch

pytest.importorskip("ray")
from ray_work import HELD_EPOCH, HOLD, WORKERS, classify
from small_runs import SMALL, command, invoke

from labline.engine import Engine
from labline.errors import BadInput
from labline.training import Epoch, Fitted
from labline.usecase import Augmentation, Training
from tasks.cluster import joined
from tasks.environment import storage_root
from tasks.trained import Share, _work, trained

if TYPE_CHECKING:
    from tasks.trained import Work

RAY = Engine(kind="ray")
# Whatever draws numbers for a sample, and whatever mixes samples that different workers have.
AUGMENTATION = Augmentation(policy=["flip", "crop", "affine", "noise", "erase", "mixup", "cutmix"], strength=0.4)
SETTINGS = Training(epochs=5, batch_size=50, precision="float32", accumulate=2, ema=0.5, gradient_clip=1.0)


@dataclass(frozen=True)
class Ran:
    """What came of a training, and what was told of it meanwhile."""

    fitted: Fitted[Any]
    epochs: list[Epoch]
    workers: list[tuple[int, int]]  # rank and process of each that has worked

    @property
    def losses(self) -> list[float]:
        return [loss for epoch in self.epochs for loss in epoch.losses]


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    """Ray is started once; what asks for it then joins."""
    with joined(RAY):
        yield


def ran(engine: Engine, work: Work, name: str, kill: int | None = None) -> Ran:
    """Train in a folder of that name; `kill` is the rank whose first worker is killed in the middle."""
    epochs: list[Epoch] = []
    hold = folder(name) / HOLD
    if kill is not None:
        hold.parent.mkdir(parents=True)
        hold.touch()

    def on_epoch(epoch: Epoch) -> None:
        epochs.append(epoch)
        if kill is not None and epoch.epoch == HELD_EPOCH:
            os.kill(next(process for rank, process in workers(name) if rank == kill), signal.SIGKILL)
            hold.unlink()

    fitted = trained(engine, "cpu", work, f"stages/train/{name}", on_epoch)
    return Ran(fitted, epochs, workers(name))


def folder(name: str) -> Path:
    return storage_root() / f"stages/train/{name}.partial"


def workers(name: str) -> list[tuple[int, int]]:
    lines = (folder(name) / WORKERS).read_text().split("\n")[:-1]
    return [(int(rank), int(process)) for rank, process in (line.split() for line in lines)]


@pytest.fixture(scope="module")
def together() -> Ran:
    return ran(RAY, partial(classify, SETTINGS, AUGMENTATION), "together")


def assert_same_curve(one: Ran, other: Ran, tolerance: float) -> None:
    """Of every step's loss, and of all that validation measures."""
    assert one.losses == pytest.approx(other.losses, rel=tolerance)
    clock = [name for name in one.fitted.history if "second" in name]
    histories = [run.fitted.history.drop(columns=clock) for run in (one, other)]
    pd.testing.assert_frame_equal(*histories, rtol=tolerance, atol=tolerance)


def test_two_workers_have_the_loss_curve_of_one_process(together: Ran) -> None:
    alone = ran(Engine(), partial(classify, SETTINGS, AUGMENTATION), "alone")
    assert {rank for rank, _ in together.workers} == {0, 1}
    assert alone.losses[-1] < 0.7 * alone.losses[0], "it learns"
    assert_same_curve(together, alone, 1e-4)
    weights, others = (run.fitted.model.state_dict() for run in (together, alone))
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], atol=1e-3, rtol=1e-3, msg=name)


def test_a_killed_worker_changes_nothing(together: Ran) -> None:
    """It is the first one, which writes the checkpoints."""
    disturbed = ran(RAY, partial(classify, SETTINGS, AUGMENTATION), "disturbed", kill=0)
    assert len(disturbed.workers) == 4, "both were started again"
    assert [epoch.epoch for epoch in disturbed.epochs] == [1, 2, 3, 4, 5], "each is told of once"
    assert disturbed.losses == together.losses, "to the last bit"
    assert disturbed.fitted.validation_metric == together.fitted.validation_metric
    weights, others = (run.fitted.model.state_dict() for run in (disturbed, together))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_what_would_come_again_is_told_and_not_only_raised() -> None:
    """Ray tries again whatever a worker raises; what is told ends the training."""
    told: Queue[Exception] = Queue()
    settings = SETTINGS.model_copy(update={"accumulate": 51})
    share = Share(partial(classify, settings, AUGMENTATION), "stages/train/too-small", told, gpu=False)
    with pytest.raises(BadInput, match="batches of 50 samples cannot be shared"):
        _work({"share": share})
    assert isinstance(told.get_nowait(), BadInput)


def test_an_address_where_no_cluster_is_is_bad_input() -> None:
    ended = subprocess.run(
        command("run", "surface", "--engine", "ray", "--address", "127.0.0.1:1"), capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "no Ray cluster answers there" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.usefixtures("servers")
def test_labline_runs_on_ray() -> None:
    arguments = ["run", "surface", "--json", "--engine", "ray", *(word for one in SMALL for word in ("--set", one))]
    ended = invoke(*arguments, "--set", "compression.passes=[]", "--set", "title=On Ray")
    assert ended.code == 0, ended.err
    assert ended.summary["version"]
    keys = {path.parent: json.loads(path.read_text()) for path in storage_root().glob("stages/train/*/key.json")}
    (folder,) = (each for each, key in keys.items() if key["depends"].get("workers that train together") == "2")
    assert list(pd.read_csv(folder / "evidence/files/history.csv")["epoch"]) == [1, 2, 3]
