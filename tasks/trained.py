"""Training where the engine has it: in this process, or together by the workers of a Ray cluster.

The workers run the same `labline.training.fit`, each on its share of every batch. They find the data set in the storage
root, and the first of them leaves the checkpoint there after each epoch: a worker that is lost costs the epoch that it
was lost in. Nothing but epochs' figures and the trained network goes through Ray.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from labline.engine import Engine
from labline.errors import LablineError
from labline.usecase import UseCase
from tasks.cluster import cluster_gpus, joined, processors_each
from tasks.environment import OUT_OF_STORAGE, load_environment, storage_root
from tasks.sharing import CHECKPOINT, bring_checkpoint, keep_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from labline.distribution import Distribution
    from labline.training import Epoch, Fitted
    from tasks.workspace import Workspace

    OnEpoch = Callable[[Epoch], None]
    # Of a module, or a partial of one's: workers import it. The checkpoint's place is the second argument.
    Work = Callable[[Distribution, Path, OnEpoch | None], Fitted[Any]]

log = logging.getLogger("labline.training")

LOSSES = 3  # of workers, after which training fails
ANSWER_SECONDS = 0.5  # how often it is looked whether the workers have ended


@dataclass(frozen=True)
class Share:
    """What a worker is told: the work, the stage's folder in the storage root, and where to send epochs."""

    work: Work
    name: str
    epochs: Any
    gpu: bool


def workers_key(declaration: UseCase) -> Mapping[str, str]:
    """What a training stage depends on: sums over several workers are rounded otherwise."""
    workers = declaration.engine.training_workers
    return {"workers that train together": str(workers)} if workers > 1 else {}


def trained(engine: Engine, device: str, work: Work, name: str, on_epoch: OnEpoch) -> Fitted[Any]:
    """Let the engine do the work, handing each epoch to `on_epoch` here as it ends.

    `name` is that of the stage's folder. `device` is as declared: GPUs are used where the cluster has one for each
    worker. Raises what the work raises, and LablineError where too many workers are lost.
    """
    from labline.distribution import ALONE

    if engine.kind == "local":
        return work(ALONE, _partial(name) / CHECKPOINT, on_epoch)
    with joined(engine):
        return _together(engine, device, work, name, on_epoch)


def recorded_in(workspace: Workspace, engine: Engine, epochs: int, select: str) -> OnEpoch:
    """Records each of so many epochs as it ends, and says how the validation metric `select` stands."""

    def on_epoch(epoch: Epoch) -> None:
        figures = asdict(epoch)
        losses, restored = figures.pop("losses"), figures.pop("restored")
        workspace.progress(epoch.epoch, epochs, f"epoch {epoch.epoch}, {select} {figures[f'validation_{select}']:.4f}")
        first_step = (epoch.epoch - 1) * len(losses)
        workspace.steps(
            [(epoch.epoch, figures), *((first_step + i, {"step_loss": loss}) for i, loss in enumerate(losses))],
            seen_before=restored or engine.kind != "local",  # workers publish their checkpoint themselves
        )

    return on_epoch


def _together(engine: Engine, device: str, work: Work, name: str, on_epoch: OnEpoch) -> Fitted[Any]:
    from queue import Empty

    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # a lost worker's is not
    epochs = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    gpu = device != "cpu" and cluster_gpus() >= engine.workers
    outcome: Future[Fitted[Any]] = Future()
    arguments = (outcome, engine.workers, Share(work, name, epochs, gpu))
    # In a thread of its own, because Ray Train takes over Ctrl-C in the main thread, and keeps it.
    threading.Thread(target=_settle, args=arguments, daemon=True).start()
    seen = 0
    while True:
        ended = outcome.done()
        try:
            told: Epoch | Exception = epochs.get(timeout=ANSWER_SECONDS)
        except Empty:
            if ended:
                return outcome.result()
            continue
        if isinstance(told, Exception):
            raise told
        if told.epoch > seen:
            on_epoch(told)
        elif told.epoch == 1:
            log.warning("a worker was lost: training goes on from the last checkpoint, of epoch %d at most", seen)
        seen = max(seen, told.epoch)


def _partial(name: str) -> Path:
    return storage_root() / f"{name}.partial"


def _settle(outcome: Future[Fitted[Any]], workers: int, share: Share) -> None:
    try:
        outcome.set_result(_run(workers, share))
    except BaseException as error:
        outcome.set_exception(error)


def _run(workers: int, share: Share) -> Fitted[Any]:
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # declared paths are relative to where labline was started
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    each = {"CPU": processors_each(workers, share.gpu)} | ({"GPU": 1.0} if share.gpu else {})
    # Of attempts to start them there is no limit by default: where they do not fit any more, they would be waited for.
    limits: dict[str, Any] = {"max_failures": LOSSES, "controller_failure_limit": LOSSES}  # the types know one of them
    with tempfile.TemporaryDirectory(prefix="labline-ray-") as folder:  # Ray's own notes: our checkpoints are elsewhere
        loop: Any = _work  # it returns something, which the type of a loop does not have
        trainer = TorchTrainer(
            loop,
            train_loop_config={"share": share},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if share.gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=share.gpu, resources_per_worker=each),
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(**limits)),
        )
        try:
            result: Any = trainer.fit()
        except TrainingFailedError as error:
            raise LablineError(f"training on Ray was given up after {LOSSES + 1} attempts: {error}") from error
    fitted: Fitted[Any] = result.return_value
    return fitted


def _work(told: Mapping[str, Share]) -> Fitted[Any] | None:
    """One worker's part; the first one returns what was trained."""
    import torch
    import torch.distributed
    from ray.train.torch import get_device

    from labline.distribution import ALONE, Ranked

    share = told["share"]
    if share.gpu:
        torch.cuda.set_device(get_device())
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # that of a machine is not that of each of its workers
    load_environment()
    partial = _partial(share.name)
    partial.mkdir(parents=True, exist_ok=True)
    distribution = Ranked() if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1 else ALONE
    try:
        if distribution.rank == 0:
            bring_checkpoint(share.name, partial)
        fitted = share.work(distribution, partial / CHECKPOINT, _reporter(share, partial))
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in OUT_OF_STORAGE
        if full or isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError | OSError):
            share.epochs.put(error)  # it would come again; the others are what a lost neighbour leaves its peers with
        raise
    return fitted if distribution.rank == 0 else None


def _reporter(share: Share, partial: Path) -> OnEpoch:
    """Sends epochs, and publishes the checkpoint where an object storage stands behind the storage root."""
    due = 0.0

    def report(epoch: Epoch) -> None:
        nonlocal due
        share.epochs.put(epoch)
        if not epoch.restored and time.monotonic() >= due:
            due = keep_checkpoint(share.name, partial) + time.monotonic()

    return report
