"""One trial of a search: trained wherever it is handed to, told to the study and to an MLflow run of its own.

It needs nothing of the memory of who asks for it: an order is small and can be pickled, and all that comes of it is in
the study, in MLflow and in the storage root.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from labline.declaration import MODALITIES, own_modules
from labline.errors import LablineError
from labline.usecase import UseCase
from tasks.environment import load_environment, storage_problem, storage_root
from tasks.observer import observer
from tasks.stage import lost_connection

if TYPE_CHECKING:
    import optuna
    from mlflow import MlflowClient

    from labline.training import Epoch
    from labline.tuning.learning import Learned

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}  # MLflow's words


@dataclass(frozen=True)
class TrialOrder:
    """All that a trial must know.

    `usecase` is what the user named, `storage` and `study` are Optuna's, `number` and `index` the trial's;
    `declaration` is what is trained, as JSON; `dataset` and `folder` lie in the storage root; `parent` is the MLflow
    run of the search; `threads` are torch's, None for its own choice; `deadline` is in seconds since 1970.
    """

    usecase: str
    storage: str
    study: str
    number: int
    index: int
    declaration: str
    modality: str
    parameters: Mapping[str, Any]
    dataset: str
    folder: str
    parent: str
    threads: int | None = None
    deadline: float | None = None

    @property
    def declared(self) -> UseCase:
        """What is trained."""
        return MODALITIES[self.modality].model_validate_json(self.declaration)


class _EndedEarly(Exception):
    """The pruner has seen enough."""


class _OutOfTime(Exception):
    """The search's time is over; the checkpoint stays."""


def owner() -> str:
    """Who runs trials: the storage root, with its host. Two that share one study leave each other's trials alone."""
    return f"{socket.gethostname()}:{storage_root()}"


def carry_out(order: TrialOrder) -> str:
    """Train a trial; returns complete, pruned, failed, or running for one that ran out of time.

    A trial fails for a reason of its own: settings that are refused or diverge. What is none (a full disk, a lost
    server) is raised, and leaves the trial to be taken up again.
    """
    from optuna import load_study
    from optuna.trial import Trial

    from labline.tuning.study import open_storage, pruner_of

    _end_with_parent()
    load_environment()
    own_modules(order.usecase)
    declaration = order.declared
    if order.threads is not None:
        import torch

        torch.set_num_threads(order.threads)
    study = load_study(study_name=order.study, storage=open_storage(order.storage))
    study.pruner = pruner_of(declaration.tuning, _epochs(declaration))
    frozen = next(trial for trial in study.get_trials(deepcopy=False) if trial.number == order.number)
    trial = Trial(study, frozen._trial_id)
    process = psutil.Process()
    trial.set_user_attr("process", [process.pid, process.create_time()])
    run = _Run(order, str(frozen.user_attrs.get("run", "")))
    trial.set_user_attr("run", run.id)
    begun = time.perf_counter()
    try:
        learned = _train(order, declaration, trial, run)
    except _EndedEarly as early:
        state = _end(study, trial, run, "pruned", str(early))
    except _OutOfTime:
        return "running"
    except LablineError as error:
        state = _end(study, trial, run, "failed", str(error))
    except Exception as error:
        if storage_problem(error) is not None or lost_connection(error) or _was_taken(error):
            raise
        state = _end(study, trial, run, "failed", f"{type(error).__name__}: {error}")
    else:
        trial.set_user_attr("seconds", round(time.perf_counter() - begun, 1))
        state = _keep(order, declaration, study, trial, run, learned)
    _checkpoint(order).unlink(missing_ok=True)
    return state


@cache
def _end_with_parent() -> None:
    """Have a process of a pool end when the search is killed: it would train on, and then wait for orders for ever."""
    parent = multiprocessing.parent_process()

    def wait_for_its_end() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=wait_for_its_end, daemon=True).start()


def _train(order: TrialOrder, declaration: UseCase, trial: optuna.Trial, run: _Run) -> Learned:
    from labline.tuning.learning import learn, measure_of
    from labline.tuning.study import prunes

    metric, _ = measure_of(declaration)
    epochs, may_prune, watching = _epochs(declaration), prunes(declaration.tuning), observer.get()

    def on_epoch(epoch: Epoch) -> None:
        figures = asdict(epoch)
        figures.pop("losses"), figures.pop("restored")
        value = figures[f"validation_{metric}"]
        watching.progressed(f"trial {order.index}", epoch.epoch, epochs, f"epoch {epoch.epoch}, {metric} {value:.4f}")
        trial.set_user_attr("epochs", epoch.epoch)
        run.log_epoch(epoch.epoch, figures, seen_before=epoch.restored)
        if may_prune:
            trial.report(value, epoch.epoch)
        if epoch.restored or epoch.epoch == epochs:
            return
        if may_prune and trial.should_prune():
            raise _EndedEarly(f"ended after epoch {epoch.epoch} of {epochs} at {metric} {value:.4g}")
        if order.deadline is not None and time.time() > order.deadline:
            raise _OutOfTime

    checkpoint = _checkpoint(order)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    return learn(declaration, storage_root() / order.dataset, checkpoint, on_epoch)


def _keep(
    order: TrialOrder, declaration: UseCase, study: optuna.Study, trial: optuna.Trial, run: _Run, learned: Learned
) -> str:
    """Write down what was learned, then tell the study: whoever is killed in between trains it again from its end."""
    from labline.tuning.learning import latencies, measure_of
    from labline.tuning.predictions import save_predictions

    folder = storage_root() / order.folder
    save_predictions(learned.predictions, folder / f"{order.index}.npz")
    metric, _ = measure_of(declaration)
    values, figures = [learned.metric], {f"best_validation_{metric}": learned.metric}
    if "latency" in declaration.tuning.objectives:
        import numpy as np

        file = learned.export(folder / f"{order.index}.onnx")
        np.save(folder / f"{order.index}.samples.npy", learned.samples)
        values.append(latencies({file.stem: file}, learned.samples)[file.stem])
        figures["latency_ms_p50"] = values[-1]
        trial.set_user_attr("latency", values[-1])
    trial.set_user_attr("metric", learned.metric)
    trial.set_user_attr("epochs", learned.epochs)
    study.tell(trial, values)
    run.end("complete", figures)
    return "complete"


def _end(study: optuna.Study, trial: optuna.Trial, run: _Run, state: str, note: str) -> str:
    from optuna.trial import TrialState

    trial.set_user_attr("note", note)
    study.tell(trial, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)
    run.end(state, {}, note)
    return state


def _checkpoint(order: TrialOrder) -> Path:
    return storage_root() / order.folder / f"{order.index}.checkpoint.pt"


def _epochs(declaration: UseCase) -> int:
    declared: Any = declaration
    return int(declared.training.epochs)


def _was_taken(error: BaseException) -> bool:
    """Whether somebody else has given this trial up meanwhile, and runs it again."""
    from optuna.exceptions import UpdateFinishedTrialError

    return isinstance(error, UpdateFinishedTrialError)


class _Run:
    """The trial's MLflow run, nested in that of the search; one that was broken off goes on in its own."""

    def __init__(self, order: TrialOrder, known: str) -> None:
        self.client, self._seen = _client(), set[int]()
        self.id = self._taken_up(known) if known else ""
        if not self.id:
            self.id = self._start(order)

    def log_epoch(self, epoch: int, figures: Mapping[str, float], seen_before: bool) -> None:
        """Log one epoch, unless it was logged before the trial was broken off."""
        from mlflow.entities import Metric

        if seen_before and epoch in self._seen:
            return
        now = int(time.time() * 1000)
        logged = [Metric(name, value, now, epoch) for name, value in figures.items() if math.isfinite(value)]
        self.client.log_batch(self.id, metrics=logged)

    def end(self, state: str, figures: Mapping[str, float], note: str = "") -> None:
        """Close it with how the trial ended."""
        for name, value in figures.items():
            self.client.log_metric(self.id, name, value)
        self.client.set_tag(self.id, "labline.trial.state", state)
        if note:
            self.client.set_tag(self.id, "mlflow.note.content", note)
        self.client.set_terminated(self.id, status=STATUS[state])

    def _start(self, order: TrialOrder) -> str:
        experiment = self.client.get_run(order.parent).info.experiment_id
        tags = {
            "mlflow.parentRunId": order.parent,
            "mlflow.source.name": "labline",
            "labline.study": order.study,
            "labline.trial": str(order.index),
            "labline.trial.state": "running",
        }
        run = self.client.create_run(experiment, run_name=f"trial-{order.index}", tags=tags)
        for name, value in order.parameters.items():
            self.client.log_param(run.info.run_id, name, value)
        return str(run.info.run_id)

    def _taken_up(self, known: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            self.client.update_run(known, status="RUNNING")
            self._seen = {point.step for point in self.client.get_metric_history(known, "train_loss")}
        except MlflowException as error:
            if lost_connection(error):
                raise
            return ""  # it was deleted meanwhile
        return known


def _client() -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient()
