"""`labline review`, as a user meets it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from saved_feedback import label, prediction
from small_models import LABELS
from small_versions import write_version
from typer.testing import CliRunner, Result

from flows.cli import app
from labline.feedback import FeedbackStore, Prediction, feedback_key, new_id
from labline.feedback.inputs import to_png
from labline.review import BY_LOT, KEPT_APART, RANKED, lot

Labline = Callable[..., Result]
PIXELS = to_png(np.full((8, 8, 1), 100, np.uint8))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    """The feedback store that the commands use; what they fill into the environment goes with it."""
    address = f"sqlite:///{tmp_path}/feedback.db"
    with patch.dict(os.environ, {"LABLINE_STORE": str(tmp_path / "store"), "LABLINE_FEEDBACK": address}):
        os.environ.pop("LABLINE_FEEDBACK_KEY", None)
        yield FeedbackStore(address)


@pytest.fixture
def labline(store: FeedbackStore) -> Labline:
    """Runs `labline review …` in a wide terminal."""
    return lambda *arguments: CliRunner(env={"COLUMNS": "200"}).invoke(app, ["review", *map(str, arguments)])


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """Version 3 as the service has brought it to this machine."""
    (tmp_path / "store" / "serving" / "parts" / "versions").mkdir(parents=True)
    return write_version(tmp_path / "store" / "serving" / "parts" / "versions" / "3-5f2a", 0.05, 'title = "Parts"\n')


def given(tmp_path: Path, sure: float, ranked: bool = True, **facts: Any) -> Prediction:
    """A prediction with an id that this storage root has given out."""
    key = feedback_key(tmp_path / "store" / "serving", "parts")
    ids = iter(lambda: new_id(key), None)
    id = next(id for id in ids if (lot(id) >= KEPT_APART) == ranked)
    facts = {"answer": "dark", "confidence": sure, "outputs": (sure, 1 - sure), "input": PIXELS, **facts}
    return prediction("parts", id=id, **facts)


def summary(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_the_doubtful_is_listed_first_with_its_reason(
    labline: Labline, store: FeedbackStore, served: Path, tmp_path: Path
) -> None:
    sure, doubtful, told = given(tmp_path, 0.99), given(tmp_path, 0.5625), given(tmp_path, 0.5)
    store.write([sure, doubtful, told, label(told, "dark")])

    listed = labline("parts")
    picks = summary(labline("parts", "--json"))["picks"]

    assert "uncertain: 0.56 dark / 0.44 bright" in listed.output
    assert "2 predictions to label; 1 of the 3 newest have a label" in listed.output
    assert [pick["id"] for pick in picks] == [doubtful.id, sure.id]
    assert [pick["id"] for pick in summary(labline("parts", "--count", 1, "--json"))["picks"]] == [doubtful.id]


def test_without_predictions_it_says_so(labline: Labline) -> None:
    assert "nothing to label" in labline("parts").output
    assert summary(labline("parts", "--json"))["picks"] == []


def test_versions_that_are_not_here_are_named(labline: Labline, store: FeedbackStore, tmp_path: Path) -> None:
    store.write([given(tmp_path, 0.5625)])
    told = labline("parts").output
    assert "version 3 is not on this machine" in told and "uncertain: 0.56 dark / 0.44 the next" in told


def test_a_csv_goes_out_and_comes_back_filled_in(
    labline: Labline, store: FeedbackStore, served: Path, tmp_path: Path
) -> None:
    first, second, third = given(tmp_path, 0.6), given(tmp_path, 0.7), given(tmp_path, 0.99)
    by_lot = given(tmp_path, 0.9, ranked=False)
    store.write([first, second, third, by_lot])
    out, images = tmp_path / "todo.csv", tmp_path / "todo"
    labline("parts", "--out", out, "--images", images)

    with out.open(encoding="utf-8-sig") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert set(rows) == {first.id, second.id, third.id, by_lot.id}
    assert rows[first.id]["confidence"] == "0.600" and rows[first.id]["label"] == ""
    assert {(images / row["file"]).read_bytes() for row in rows.values()} == {PIXELS}

    for id, said in ((first.id, "bright"), (second.id, "brihgt"), (by_lot.id, "dark")):
        rows[id]["label"] = said
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, next(iter(rows.values())))
        writer.writeheader()
        writer.writerows(rows.values())
    told = summary(labline("parts", "--import", out, "--json"))

    assert (told["accepted"], told["rejected"], told["unfilled"]) == (2, 1, 1)
    assert [(each.label, each.source) for each in store.labels(first.id)] == [("bright", RANKED)]
    assert [(each.label, each.source) for each in store.labels(by_lot.id)] == [("dark", BY_LOT)]
    with Path(told["quarantine"]).open() as file:
        (refused,) = csv.DictReader(file)
    assert refused["id"] == second.id and f"not one of the classes {', '.join(LABELS)}" in refused["reason"]


def test_who_says_so_can_be_told_for_rows_that_do_not(labline: Labline, store: FeedbackStore, tmp_path: Path) -> None:
    one = given(tmp_path, 0.6)
    store.write([one])
    path = tmp_path / "own.csv"
    path.write_text(f"id,label\n{one.id},scratched\n")
    summary(labline("parts", "--import", path, "--source", "ann", "--json"))
    assert [(each.label, each.source) for each in store.labels(one.id)] == [("scratched", "ann")]


def test_a_version_that_takes_any_label_takes_it_from_a_csv(
    labline: Labline, store: FeedbackStore, served: Path, tmp_path: Path
) -> None:
    (served / "extra_files" / "usecase.toml").write_text('title = "Parts"\n[serving]\nunknown_labels = "accept"\n')
    one = given(tmp_path, 0.6)
    store.write([one])
    path = tmp_path / "own.csv"
    path.write_text(f"id,label\n{one.id},never seen before\n")
    assert summary(labline("parts", "--import", path, "--json"))["accepted"] == 1


def test_hostile_text_is_no_markup_and_no_formula(labline: Labline, store: FeedbackStore, tmp_path: Path) -> None:
    store.write([given(tmp_path, 0.6, answer="[bold]dark[/]", source="=HYPERLINK(0)"), given(tmp_path, 0.7)])
    out = tmp_path / "todo.csv"
    assert "[bold]dark[/]" in labline("parts", "--out", out).output
    with out.open(encoding="utf-8-sig") as file:
        assert {row["reference"] for row in csv.DictReader(file)} == {"'=HYPERLINK(0)", ""}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--out", "none/todo.csv"), "--out none/todo.csv: it cannot be written"),
        (("--images", "occupied"), "--images occupied: inputs cannot be written there"),
        (("--import", "none.csv"), "none.csv: a CSV in UTF-8 was expected"),
        (("--import", "occupied"), "occupied: no column id and no column label"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    labline: Labline,
    store: FeedbackStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "occupied").write_text("nothing,here\n")
    store.write([given(tmp_path, 0.6)])
    result = labline("parts", *arguments)
    assert result.exit_code == 2 and told in " ".join(result.output.split())
