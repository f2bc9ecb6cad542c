"""The search for better settings: its study, its MLflow run, and what a search that was killed has left behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from labline.database import database_url
from labline.references import DatasetRef
from labline.series.declaration import embargo_rows
from labline.series.usecase import SeriesUseCase
from labline.tuning.declaration import Dimension
from labline.usecase import UseCase
from tasks.environment import storage_root
from tasks.observer import Observer, StageRecord, observer
from tasks.recording import Recording, recorded_on, standing_in
from tasks.trial import STATUS, TrialOrder, owner
from tasks.turn import hold

if TYPE_CHECKING:
    from pathlib import Path

    import optuna
    from optuna.trial import FrozenTrial

# Of the declaration, what changes no trial: how many there are, what comes after training, and who computes.
UNDECIDING = (
    "title",
    "compression",
    "export",
    "gates",
    "promotion",
    "serving",
    "monitoring",
    "retraining",
    "evaluation",
    "engine",
)


@dataclass(frozen=True)
class Search:
    """A search under way: what is declared, where it may go, and the study that remembers it."""

    usecase: str
    declaration: UseCase
    space: dict[str, Dimension]
    dataset: DatasetRef
    study: optuna.Study
    address: str
    metric: str
    higher: bool

    @property
    def folder(self) -> str:
        """Checkpoints and predictions of its trials, relative to the storage root."""
        return f"tuning/{self.study.study_name}"

    @property
    def both(self) -> bool:
        """Whether latency counts beside the metric."""
        return "latency" in self.declaration.tuning.objectives

    def predictions(self, index: int) -> Path:
        """What a trial said of the validation split."""
        return storage_root() / self.folder / f"{index}.npz"


class SearchRecording(Recording):
    """The MLflow run of a search: one a study, however often the search is gone on with; trials are nested in it."""

    def __init__(self, declaration: UseCase) -> None:
        super().__init__(declaration, fresh=False, observer=observer.get())
        self._note = storage_root() / "runs" / f"{declaration.name}.tuning.json"

    def belong_to(self, study: optuna.Study) -> None:
        """Go on in the run of an earlier search on this study, or make this run the study's."""
        from mlflow.exceptions import MlflowException

        known = study.user_attrs.get("run")
        if known and not self.started:
            with contextlib.suppress(MlflowException):  # the run was deleted meanwhile: a new one is started
                self.client.update_run(known, status="RUNNING")
                self._run_id = str(known)
                return
        study.set_user_attr("run", self.run_id)
        self.client.set_tag(self.run_id, "labline.study", study.study_name)

    def _start(self) -> str:
        run_id = super()._start()
        self.client.update_run(run_id, name=f"tuning-{self.declaration.name}")
        return run_id


class _Unrecorded(Recording):
    """Stages run for one trial alone leave their evidence in the storage root and on no run."""

    @property
    def run_id(self) -> str:
        return ""

    def finished(self, record: StageRecord) -> None:
        """Nothing to tell."""

    def defer(self, stage: str, folder: Path) -> None:
        """Nothing to keep."""

    def log_evidence(self, stage: str, folder: Path, history: bool) -> None:
        """Nowhere to log."""


@contextlib.contextmanager
def recorded(declaration: UseCase) -> Iterator[SearchRecording]:
    """Record the search inside; one that is interrupted leaves its run open for the next to go on in."""
    with recorded_on(SearchRecording(declaration)) as current:
        yield current


@contextlib.contextmanager
def unrecorded(declaration: UseCase) -> Iterator[None]:
    """Run stages inside without an MLflow run, and without anybody watching."""
    with standing_in(_Unrecorded(declaration, fresh=False, observer=Observer())):
        yield


@contextlib.contextmanager
def alone_in_tuning(usecase: str) -> Iterator[None]:
    """Wait until no other search for this use case is going on in this storage root."""
    waiting = f"another search for {usecase} is going on: waiting for it to end"
    with hold(storage_root() / "tuning" / f"{usecase}.lock", waiting):
        yield


def comparable(declaration: UseCase, space: Mapping[str, Dimension]) -> UseCase:
    """The declaration so that all of its trials are judged on the same days: an embargo that suits the longest window.

    Where none is declared, it follows the window; then trials of longer windows would be spared some days.
    """
    if not isinstance(declaration, SeriesUseCase) or declaration.data.split.embargo is not None:
        return declaration
    window = space.get("features.window")
    if window is None:
        return declaration
    longest = int(max(window.choices or [window.high]))
    features = declaration.features.model_copy(update={"window": longest})
    split = declaration.data.split.model_copy(update={"embargo": embargo_rows(declaration.data.split, features)})
    return declaration.model_copy(update={"data": declaration.data.model_copy(update={"split": split})})


def begin(
    usecase: str, declaration: UseCase, space: dict[str, Dimension], dataset: DatasetRef, training_key: str, fresh: bool
) -> Search:
    """Open the study of this declaration on this data, or make it; what a killed search left is taken up again.

    `training_key` digests all that decides training; `fresh` forgets what was tried.
    """
    import optuna

    from labline.tuning.learning import measure_of
    from labline.tuning.study import open_storage, open_study

    address, name = os.environ["LABLINE_TUNING"], study_name(declaration, space, training_key)
    if (file := database_url(address)).drivername.startswith("sqlite") and file.database:
        from pathlib import Path

        Path(file.database).parent.mkdir(parents=True, exist_ok=True)
    if fresh:
        with contextlib.suppress(KeyError):
            optuna.delete_study(study_name=name, storage=open_storage(address))
        shutil.rmtree(storage_root() / "tuning" / name, ignore_errors=True)
    metric, higher = measure_of(declaration)
    declared: Any = declaration
    study = open_study(address, name, declaration.tuning, higher, declared.training.epochs)
    return Search(usecase, declaration, space, dataset, study, address, metric, higher)


def study_name(declaration: UseCase, space: Mapping[str, Dimension], training_key: str) -> str:
    """The use case and a digest of all that decides what its trials come to."""
    declared = declaration.model_dump(mode="json", exclude=set(UNDECIDING))
    tuning = {key: value for key, value in declared["tuning"].items() if key not in ("trials", "timeout_minutes")}
    searched = {key: dimension.model_dump(mode="json") for key, dimension in space.items()}
    decides = [declared | {"tuning": tuning}, searched, training_key]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return f"{declaration.name}-{digest[:10]}"


def take_up_lost(search: Search) -> int:
    """Give up the trials that a dead search of this storage root left running; they are tried again. Says how many.

    The caller is the only one who searches here. A process that still trains, orphaned, is ended first.
    """
    from optuna.trial import TrialState

    from labline.tuning.study import take_up

    running = [trial for trial in search.study.get_trials() if trial.state == TrialState.RUNNING]
    mine = [trial for trial in running if trial.user_attrs.get("owner", owner()) == owner()]
    for trial in mine:
        _end_orphan(trial)
        take_up(search.study, trial)
    return len(mine)


def close_runs(search: Search, recording: Recording) -> None:
    """End the MLflow runs of trials that ended while nobody could say so."""
    from labline.tuning.study import attempts

    for attempt in attempts(search.study):
        if attempt.state in STATUS and attempt.run:
            run = recording.client.get_run(attempt.run)
            if run.info.status == "RUNNING":
                recording.client.set_tag(attempt.run, "labline.trial.state", attempt.state)
                recording.client.set_terminated(attempt.run, status=STATUS[attempt.state])


def next_order(search: Search, parent: str, threads: int | None, deadline: float | None) -> TrialOrder:
    """The next trial, as an order without its data set: settings that are refused still have one."""
    from labline.tuning.space import distributions, point_of, settings_of, value_of
    from labline.tuning.study import propose

    declaration, space = search.declaration, search.space
    trial, index = propose(
        search.study, distributions(space, type(declaration)), point_of(declaration, space), declaration.tuning.seed
    )
    settings = {key: value_of(declaration, key) for key in space} if index == 0 else settings_of(trial.params, space)
    trial.set_user_attr("owner", owner())
    trial.set_user_attr("settings", settings)
    trial.set_user_attr("index", index)
    return TrialOrder(
        usecase=search.usecase,
        storage=search.address,
        study=search.study.study_name,
        number=trial.number,
        index=index,
        declaration=declaration.model_dump_json(),
        modality="series" if isinstance(declaration, SeriesUseCase) else "image",
        parameters=settings,
        dataset=search.dataset.directory,
        folder=search.folder,
        parent=parent,
        threads=threads,
        deadline=deadline,
    )


def refuse(search: Search, order: TrialOrder, reason: str) -> None:
    """A trial whose settings cannot be used failed before it was trained."""
    from optuna.trial import Trial, TrialState

    frozen = next(trial for trial in search.study.get_trials(deepcopy=False) if trial.number == order.number)
    Trial(search.study, frozen._trial_id).set_user_attr("note", reason)
    search.study.tell(order.number, state=TrialState.FAIL)


def _end_orphan(trial: FrozenTrial) -> None:
    """End the process that trains, if it is still that very process; a pid alone may be another's by now."""
    known = trial.user_attrs.get("process")
    if known is None or known[0] == os.getpid():
        return
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(int(known[0]))
        if abs(process.create_time() - float(known[1])) < 1:
            process.kill()
            process.wait(timeout=30)
