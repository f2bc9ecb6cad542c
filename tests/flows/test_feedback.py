"""`labline feedback`, as a user meets it."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

import pandas as pd
import pytest
from PIL import Image
from registered import register
from saved_feedback import label, prediction
from typer.testing import CliRunner, Result

from flows.cli import app
from labline.data.feedback import write_feedback
from labline.feedback import FeedbackStore, Prediction, feedback_key, new_id
from labline.feedback.store import SECONDS_A_DAY

Labline = Callable[..., Result]


@pytest.fixture
def store(feedback_address: str, tmp_path: Path) -> Iterator[FeedbackStore]:
    """The feedback store that the commands use; what they fill into the environment goes with it."""
    with patch.dict(os.environ, {"LABLINE_STORE": str(tmp_path / "store"), "LABLINE_FEEDBACK": feedback_address}):
        os.environ.pop("LABLINE_FEEDBACK_KEY", None)
        yield FeedbackStore(feedback_address)


@pytest.fixture
def labline(store: FeedbackStore) -> Labline:
    """Runs `labline feedback …`."""
    return lambda *arguments: CliRunner().invoke(app, ["feedback", *map(str, arguments)])


def given(tmp_path: Path, usecase: str = "steel", days: float = 0.0) -> Prediction:
    """A prediction with an id that this storage root has given out."""
    key = feedback_key(tmp_path / "store" / "serving", usecase)
    return prediction(usecase, id=new_id(key), at=time.time() - days * SECONDS_A_DAY, input=b"x")


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()


def summary(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_what_is_kept_is_told(labline: Labline, store: FeedbackStore, tmp_path: Path) -> None:
    assert "no predictions of steel are kept" in labline("steel").output
    answers = [given(tmp_path) for _ in range(4)]
    store.write([*answers, label(answers[0])])
    assert "4 predictions (4 of version 3)" in labline("steel").output
    told = summary(labline("steel", "--json"))
    assert (told["predictions"], told["labelled_share"], told["versions"]) == (4, 0.25, {"3": 4})


def test_deleting_by_id_and_by_file(labline: Labline, store: FeedbackStore, tmp_path: Path) -> None:
    answers = [given(tmp_path) for _ in range(4)]
    store.write(answers)
    listed = tmp_path / "ids.txt"
    listed.write_text(f"{answers[1].id}\n\n{answers[2].id}\n")
    told = summary(labline("steel", "delete", "--id", answers[0].id, "--file", listed, "--json"))
    assert told["deleted"] == 3
    assert store.window("steel")["id"].tolist() == [answers[3].id]


def test_training_sets_that_hold_what_is_deleted_are_named_and_go_when_asked_for(
    labline: Labline, store: FeedbackStore, tmp_path: Path
) -> None:
    answer = given(tmp_path)
    store.write([answer])
    folder = tmp_path / "store" / "retraining" / "steel" / "feedback"
    copy = write_feedback(
        pd.DataFrame({"id": [answer.id], "label": "dent", "split": "test"}), {answer.id: png()}, folder
    )
    told = labline("steel", "delete", "--id", answer.id)
    assert f"--copies deletes those too: retraining/steel/feedback/{copy.parent.name}" in told.output
    assert copy.is_file()
    again = summary(labline("steel", "delete", "--id", answer.id, "--copies", "--json"))
    assert (again["deleted"], again["copies"], again["copies_deleted"]) == (0, [str(copy.parent)], True)
    assert not copy.parent.exists()


def test_ids_of_another_use_case_delete_nothing(labline: Labline, store: FeedbackStore, tmp_path: Path) -> None:
    mine, other = given(tmp_path), given(tmp_path, "surface")
    store.write([mine, other])
    refused = labline("steel", "delete", "--id", mine.id, "--id", other.id)
    assert refused.exit_code == 2 and "were not given out for steel" in refused.output
    assert labline("steel", "delete").exit_code == 2
    assert store.known(mine.id) and store.known(other.id)


def test_without_a_number_what_is_retained_is_what_the_version_in_production_declares(
    labline: Labline, store: FeedbackStore, servers: dict[str, str], tmp_path: Path
) -> None:
    name = f"retained-{uuid4().hex}"  # once on each database
    register(name, tmp_path / "version")
    young, old = (given(tmp_path, name, days) for days in (364, 366))
    store.write([young, old])
    told = summary(labline(name, "retain", "--json"))
    assert (told["days"], told["deleted"]) == (365, 1)
    assert store.window(name)["id"].tolist() == [young.id]


def test_the_clock_retains_what_is_declared_and_nothing_where_nothing_is_in_production(
    store: FeedbackStore, servers: dict[str, str], tmp_path: Path
) -> None:
    from flows.retention import retention

    name = f"clocked-{uuid4().hex}"
    old = given(tmp_path, name, 366)
    store.write([old])
    assert retention(name) == {"usecase": name, "days": None, "deleted": 0}
    register(name, tmp_path / "version")
    assert [retention(name)["deleted"] for _ in range(2)] == [1, 0]
    assert not store.known(old.id)


def test_retaining(labline: Labline, store: FeedbackStore, tmp_path: Path) -> None:
    store.write([given(tmp_path, days=days) for days in (1, 50, 100)])
    assert summary(labline("steel", "retain", "--days", 30, "--json"))["deleted"] == 2


def test_exporting(labline: Labline, store: FeedbackStore, tmp_path: Path) -> None:
    answers = [given(tmp_path, days=days) for days in (9, 1)]
    shadow = prediction(role="shadow", shadow_of=answers[1].id)
    store.write([*answers, shadow, label(answers[1], "patches")])
    out = tmp_path / "feedback.parquet"
    assert summary(labline("steel", "export", "--out", out, "--json"))["predictions"] == 3
    written = pd.read_parquet(out)
    assert written["label"].tolist() == [None, "patches", None]
    assert written["outputs"].tolist()[0].tolist() == [0.75, 0.125, 0.125]
    since = time.strftime("%Y-%m-%d", time.localtime(time.time() - 5 * SECONDS_A_DAY))
    assert summary(labline("steel", "export", "--out", out, "--since", since, "--json"))["predictions"] == 2
    assert labline("steel", "export", "--out", tmp_path / "none" / "x.parquet").exit_code == 2
    assert labline("steel", "export", "--out", out, "--since", "yesterday").exit_code == 2


def test_importing(labline: Labline, store: FeedbackStore, tmp_path: Path) -> None:
    known, deleted = given(tmp_path), given(tmp_path)
    store.write([known, deleted])
    store.delete([deleted.id])
    path = tmp_path / "labels.csv"
    path.write_text(f"id,label\n{known.id},patches\n{deleted.id},patches\nnobody,patches\n{known.id},dent\n")
    told = summary(labline("steel", "import", path, "--class", "patches", "--json"))
    assert (told["accepted"], told["deleted"], told["rejected"]) == (1, 1, 2)
    quarantine = pd.read_csv(tmp_path / "labels.quarantine.csv")
    assert quarantine["line"].tolist() == [4, 5]
    assert store.window("steel")["label"].tolist() == ["patches"]
    summary(labline("steel", "import", path, "--json"))
    assert len(store.labels(known.id)) == 2, "a row is stored once, however often it is read"


def test_a_store_that_is_down_is_told_in_one_line(labline: Labline) -> None:
    os.environ["LABLINE_FEEDBACK"] = "postgresql://me:secret@/nothing?host=/nonexistent"
    told = labline("steel")
    assert told.exit_code == 1 and "LABLINE_FEEDBACK" in told.output and "secret" not in told.output
