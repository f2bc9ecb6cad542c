"""The MLflow run of a flow run: started when the first stage really runs, filled by batches.

A flow run whose stages are all cached leaves no MLflow run behind. One that was killed, or lost a server, goes
on in the run it had started, as long as the declaration is the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from labline.usecase import UseCase
from tasks.environment import storage_root
from tasks.object_storage import outlasting
from tasks.observer import Observer, StageRecord, observer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_current: ContextVar[Recording] = ContextVar("recording")
AnyRecording = TypeVar("AnyRecording", bound="Recording")
BATCH = 1000  # the most metrics MLflow takes in one call
GONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow says of a run that is no more, or deleted


class Recording:
    """The MLflow run being filled, and what is still to be put on it."""

    def __init__(self, declaration: UseCase, fresh: bool, observer: Observer, reason: str = "") -> None:
        """`fresh` asks every stage to run again; `reason` says why there is a training at all."""
        self.declaration = declaration
        self.fresh = fresh
        self.reason = reason
        self.observer = observer
        self.stages: list[StageRecord] = []
        self._pending: list[tuple[str, Path]] = []
        self._run_id: str | None = None
        self._logged: list[str] = []
        self._resumed = False
        self._found: dict[str, set[tuple[int, float]]] = {}
        self._note = storage_root() / "runs" / f"{declaration.name}.json"

    @property
    def started(self) -> bool:
        """Whether an MLflow run exists."""
        return self._run_id is not None

    @property
    def client(self) -> MlflowClient:
        """A client of the tracking server that `mlflow.env` names."""
        from mlflow import MlflowClient

        return MlflowClient()

    @property
    def run_id(self) -> str:
        """The MLflow run, started (or taken up again) when first asked for."""
        if self._run_id is None:
            self._run_id = self._unfinished() or self._start()
            pending, self._pending = self._pending, []
            for stage, folder in pending:
                if stage not in self._logged:
                    self.log_evidence(stage, folder, history=True)
        return self._run_id

    @property
    def resumed(self) -> bool:
        """Whether this goes on in the run of a flow that was killed."""
        return bool(self.run_id) and self._resumed

    def finished(self, record: StageRecord) -> None:
        """Keep how a stage went, and tell whoever watches."""
        self.stages.append(record)
        self.observer.finished(record)

    def defer(self, stage: str, folder: Path) -> None:
        """Keep a cached stage's evidence for the run, if one is ever started."""
        if self.started:
            self.log_evidence(stage, folder, history=True)
        else:
            self._pending.append((stage, folder))

    def log_evidence(self, stage: str, folder: Path, history: bool) -> None:
        """Put a finished stage's evidence on the run; `history` where its steps were not logged live."""
        from mlflow.entities import Metric, Param

        evidence = folder / "evidence"
        steps = json.loads((evidence / "history.json").read_text())
        if history:
            self.log_steps(steps)
        metrics = json.loads((evidence / "metrics.json").read_text())
        parameters = json.loads((evidence / "parameters.json").read_text())
        # A figure that has a curve ends it: at step 0 it would stand at the curve's beginning.
        last_step = {name: entry["step"] for entry in steps for name in entry["metrics"]}
        now = int(time.time() * 1000)
        figures = [Metric(name, value, now, last_step.get(name, 0)) for name, value in metrics.items()]
        self.client.log_batch(
            self.run_id,
            metrics=self._not_found(figures),
            params=[Param(name, value) for name, value in parameters.items()],
        )
        if any((evidence / "files").iterdir()):
            files = partial(self.client.log_artifacts, self.run_id, str(evidence / "files"), artifact_path=stage)
            outlasting(files, f"writing artifacts of {stage}")
        self._logged.append(stage)
        self._write_note()

    def log_steps(self, history: Sequence[dict[str, Any]]) -> None:
        """Log figures per step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, v, now, entry["step"]) for entry in history for name, v in entry["metrics"].items()]
        figures = self._not_found(points)
        for start in range(0, len(figures), BATCH):
            self.client.log_batch(self.run_id, metrics=figures[start : start + BATCH])

    def finish(self, status: str) -> None:
        """Close the run, if there is one."""
        if self.started:
            self.client.set_terminated(self.run_id, status=status)
            self._note.unlink(missing_ok=True)

    def broken_off(self) -> None:
        """Say that the run failed, where MLflow can be told; the next one of the same declaration goes on in it."""
        from mlflow.exceptions import MlflowException

        if self.started:
            with contextlib.suppress(MlflowException):
                self.client.set_terminated(self.run_id, status="FAILED")

    def _not_found(self, figures: list[Metric]) -> list[Metric]:
        """Of figures those that did not stand there when the run was resumed: what it had logged is not doubled."""
        if not self.resumed:
            return figures
        return [figure for figure in figures if (figure.step, figure.value) not in self._points_found(figure.key)]

    def _points_found(self, name: str) -> set[tuple[int, float]]:
        """Steps and values of a figure that stood on the run when first asked."""
        if name not in self._found:
            history = self.client.get_metric_history(self.run_id, name)
            self._found[name] = {(point.step, point.value) for point in history}
        return self._found[name]

    def _start(self) -> str:
        run = self.client.create_run(
            self._experiment(),
            run_name=f"{self.declaration.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            tags={
                "labline.usecase": self.declaration.name,
                "mlflow.user": os.environ.get("USER", "labline"),
                "mlflow.source.name": "labline",
                "mlflow.note.content": self.declaration.title,
            },
        )
        self._run_id = str(run.info.run_id)
        self._write_note()
        self.client.log_dict(run.info.run_id, self.declaration.model_dump(mode="json"), "declaration.json")
        return self._run_id

    def _write_note(self) -> None:
        """Leave word for the next flow run, should this one be killed."""
        self._note.parent.mkdir(parents=True, exist_ok=True)
        note = {"run_id": self._run_id, "declaration": self._identity(), "logged": self._logged}
        self._note.write_text(json.dumps(note))

    def _unfinished(self) -> str | None:
        """The run of a flow of this same declaration that did not come to its end; one of another is closed.

        Whatever it says of itself: registering ends it, and what lost a server has failed.
        """
        from mlflow.exceptions import MlflowException

        if not self._note.is_file():
            return None
        note = json.loads(self._note.read_text())
        try:
            run = self.client.get_run(note["run_id"])
            if note["declaration"] == self._identity():
                self.client.update_run(note["run_id"], status="RUNNING")
                self._resumed = True
                self._logged = note["logged"]
                return str(note["run_id"])
            if run.info.status == "RUNNING":
                self.client.set_terminated(note["run_id"], status="KILLED")
        except MlflowException as error:
            if error.error_code not in GONE:
                raise
        return None  # the run was deleted meanwhile: a new one is started

    def _identity(self) -> str:
        return self.declaration.model_dump_json()

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.declaration.name)
        if found is not None:
            return str(found.experiment_id)
        artifacts = os.environ["LABLINE_MLFLOW_ARTIFACTS"]
        remote = os.environ["MLFLOW_TRACKING_URI"].startswith("http")
        location = None if remote else f"{artifacts.rstrip('/')}/{self.declaration.name}"
        return str(self.client.create_experiment(self.declaration.name, artifact_location=location))


@contextlib.contextmanager
def recording(declaration: UseCase, fresh: bool = False, reason: str = "") -> Iterator[Recording]:
    """Record everything inside on one MLflow run, closed with the status it deserves."""
    with recorded_on(Recording(declaration, fresh, observer.get(), reason)) as current:
        yield current


@contextlib.contextmanager
def recorded_on(current: AnyRecording) -> Iterator[AnyRecording]:
    """Record everything inside on this run, closed with the status it deserves."""
    from tasks.stage import lost_connection  # which records stages here

    with standing_in(current):
        try:
            yield current
        except KeyboardInterrupt:
            raise  # left open: the next run of the same declaration goes on in it
        except BaseException as error:
            if lost_connection(error):
                current.broken_off()
            else:
                current.finish("FAILED")
            raise
        else:
            current.finish("FINISHED")


@contextlib.contextmanager
def standing_in(current: Recording) -> Iterator[None]:
    """Let stages inside record here, whatever becomes of the run."""
    token = _current.set(current)
    try:
        yield
    finally:
        _current.reset(token)


def current_recording() -> Recording:
    """The recording that the running flow opened."""
    return _current.get()
