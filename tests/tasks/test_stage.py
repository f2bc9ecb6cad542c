"""Stages: cached by content, explained when they run again, recorded on one MLflow run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect import flow
from prefect.client.orchestration import get_client

from labline.errors import BadInput
from labline.references import Reference
from labline.usecase import ImageUseCase
from tasks.environment import storage_root
from tasks.observer import Observer, StageRecord, observer
from tasks.recording import recording
from tasks.stage import Stage, stage
from tasks.workspace import Workspace

pytestmark = pytest.mark.usefixtures("servers")


def declare(name: str, epochs: int = 1) -> ImageUseCase:
    return ImageUseCase.model_validate(
        {
            "name": name,
            "title": "A test",
            "data": {"source": "surfaces", "image_size": 16},
            "training": {"epochs": epochs},
        }
    )


@stage(sections=("training",))
def double(declaration: ImageUseCase, *, workspace: Workspace) -> Reference:
    """Twice the epochs."""
    workspace.metrics({"doubled": 2 * declaration.training.epochs})
    workspace.steps([(1, {"loss": 0.5}), (2, {"loss": 0.25})])
    (workspace.files / "note.txt").write_text("evidence")
    value = str(2 * declaration.training.epochs)
    return Reference(directory=workspace.name, digest=value, figure=value)


@stage()
def square(declaration: ImageUseCase, doubled: Reference, *, workspace: Workspace) -> Reference:
    """The square of what came before."""
    value = str(int(doubled.digest) ** 2)
    return Reference(directory=workspace.name, digest=value, figure=value)


@stage()
def refuse(declaration: ImageUseCase, *, workspace: Workspace) -> Reference:
    """Never satisfied."""
    (workspace.files / "table.csv").write_text("why,not")
    raise BadInput("row 7 of parts.csv is upside down: turn it")


@flow(name="chain")
def chain(declaration: ImageUseCase, stages: list[Callable[..., Reference]], fresh: bool = False) -> list[StageRecord]:
    with recording(declaration, fresh) as record:
        result: tuple[Reference, ...] = ()
        for each in stages:
            result = (each(declaration, *result),)
        return record.stages


def runs(name: str) -> list:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    return client.search_runs([experiment.experiment_id]) if experiment else []


def test_a_second_run_takes_everything_from_the_cache_and_leaves_no_mlflow_run() -> None:
    declaration = declare("cached")
    first, second = chain(declaration, [double, square]), chain(declaration, [double, square])
    assert [record.cached for record in first] == [False, False]
    assert [record.cached for record in second] == [True, True]
    assert [record.figure for record in second] == ["2", "4"]
    assert len(runs("cached")) == 1


def test_only_what_changed_runs_again_and_says_why() -> None:
    chain(declare("changed", epochs=3), [double, square])
    double_again, square_again = chain(declare("changed", epochs=4), [double, square])
    assert not double_again.cached
    assert double_again.reason == "changed: training.epochs 3 → 4"
    assert "inputs.Reference" in square_again.reason


def test_fresh_runs_every_stage_again() -> None:
    declaration = declare("fresh")
    chain(declaration, [double])
    (again,) = chain(declaration, [double], fresh=True)
    assert not again.cached
    assert again.reason == "asked for (--fresh)"


def test_a_result_deleted_by_hand_is_computed_again() -> None:
    import shutil

    declaration = declare("deleted", epochs=17)
    chain(declaration, [double])
    for folder in (storage_root() / "stages" / "double").iterdir():
        shutil.rmtree(folder)
    assert [record.cached for record in chain(declaration, [double])] == [False]


def test_evidence_of_cached_stages_is_on_the_next_run_too() -> None:
    chain(declare("evidence", epochs=5), [double])
    declaration = declare("evidence", epochs=5)
    chain(declaration, [double, square])
    newest = max(runs("evidence"), key=lambda run: run.info.start_time)
    client = MlflowClient()
    assert newest.data.metrics["doubled"] == 10
    assert [point.value for point in client.get_metric_history(newest.info.run_id, "loss")] == [0.5, 0.25]
    assert [file.path for file in client.list_artifacts(newest.info.run_id, "double")] == ["double/note.txt"]


@stage()
def settle(declaration: ImageUseCase, *, workspace: Workspace) -> Reference:
    """Keeps its best epoch, which is not its last."""
    workspace.steps([(1, {"accuracy": 0.5}), (2, {"accuracy": 0.9}), (3, {"accuracy": 0.8})])
    workspace.metrics({"accuracy": 0.9})
    return Reference(directory=workspace.name, digest="9", figure="0.9")


def test_the_figure_of_a_run_ends_the_curve_of_the_same_name() -> None:
    chain(declare("settled"), [settle])
    chain(declare("settled"), [settle, square])
    for run in runs("settled"):
        curve = MlflowClient().get_metric_history(run.info.run_id, "accuracy")
        assert run.data.metrics["accuracy"] == 0.9
        assert sorted(point.step for point in curve) == [1, 2, 3, 3]


def test_a_refusal_reaches_the_caller_whole_and_its_evidence_the_run() -> None:
    with pytest.raises(BadInput, match="row 7 of parts.csv is upside down"):
        chain(declare("refused"), [refuse])
    (run,) = runs("refused")
    assert run.info.status == "FAILED"
    assert [file.path for file in MlflowClient().list_artifacts(run.info.run_id, "refuse")] == ["refuse/table.csv"]


def test_a_killed_flow_is_taken_up_in_the_same_mlflow_run() -> None:
    declaration = declare("killed", epochs=6)

    @stage()
    def interrupted(declaration: ImageUseCase, doubled: Reference, *, workspace: Workspace) -> Reference:
        raise KeyboardInterrupt

    with pytest.raises(BaseException), recording(declaration) as record:  # noqa: B017, PT012  (as Ctrl-C ends a flow)
        double_alone(declaration)
        run_id = record.run_id
        raise KeyboardInterrupt
    chain(declaration, [double, square])
    (run,) = runs("killed")
    assert run.info.run_id == run_id
    assert run.info.status == "FINISHED"
    assert len(MlflowClient().get_metric_history(run_id, "loss")) == 2


@stage()
def interrupted(declaration: ImageUseCase, *, workspace: Workspace) -> Reference:
    """Ends between writing the second step to its checkpoint and logging it."""
    workspace.steps([(1, {"loss": 0.5})])
    raise KeyboardInterrupt


@stage()
def resuming(declaration: ImageUseCase, *, workspace: Workspace) -> Reference:
    """Reports two steps from the checkpoint, then a new one."""
    for step in (1, 2):
        workspace.steps([(step, {"loss": 1 / 2**step})], seen_before=True)
    workspace.steps([(3, {"loss": 1 / 2**3})])
    return Reference(directory=workspace.name, digest="resumed")


def test_a_resumed_run_has_every_step_once_whenever_it_was_killed() -> None:
    with pytest.raises(KeyboardInterrupt):
        chain(declare("half-logged"), [interrupted])
    chain(declare("half-logged"), [resuming])
    (run,) = runs("half-logged")
    points = MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (2, 0.25), (3, 0.125)]


@flow(name="double-alone")
def double_alone(declaration: ImageUseCase) -> None:
    double(declaration)


def test_whoever_watches_is_told() -> None:
    told: list[str] = []

    class Watching(Observer):
        def started(self, stage: str) -> None:
            told.append(f"started {stage}")

        def finished(self, record: StageRecord) -> None:
            told.append(f"finished {record.name}")

        def failed(self, stage: str) -> None:
            told.append(f"failed {stage}")

    token = observer.set(Watching())
    try:
        chain(declare("watched", epochs=8), [double])
        with pytest.raises(BadInput):
            chain(declare("watched", epochs=9), [refuse])
    finally:
        observer.reset(token)
    assert told == ["started double", "finished double", "started refuse", "failed refuse"]


def test_the_prefect_page_has_an_artifact_for_every_stage_that_ran() -> None:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    chain(declare("shown", epochs=11), [double])
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["shown-double"])))
    assert len(found) == 1
    assert "double: 22" in str(found[0].data)


def test_a_key_names_everything_the_result_depends_on() -> None:
    chain(declare("keyed", epochs=12), [double])
    keys = [json.loads(path.read_text()) for path in (storage_root() / "stages/double").glob("*/key.json")]
    (key,) = [key for key in keys if key["usecase"] == "keyed"]
    assert key["declaration"]["training"]["epochs"] == 12
    assert set(key["source"]) == {__name__} or key["source"] == {}


def test_half_done_stages_leave_no_complete_folder() -> None:
    with pytest.raises(BadInput):
        chain(declare("half"), [refuse])
    folders = list((storage_root() / "stages" / "refuse").iterdir())
    assert all(folder.suffix == ".partial" for folder in folders)


def test_stages_are_values(tmp_path: Path) -> None:
    assert isinstance(double, Stage)
    assert double.name == "double"
