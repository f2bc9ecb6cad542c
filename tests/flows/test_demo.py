"""`labline demo`: what it keeps, what it shows when it has been played, and, where there is time, the whole of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from free_ports import free_ports
from small_runs import Ended

from flows.commands import labline as run_labline
from flows.demo import ACTS
from flows.story import Act, Story, read_story, write_story
from labline.errors import BadInput


def played(names: tuple[str, ...], picture: str = "demo.png") -> Story:
    """A story in which these acts ended as they should."""
    figures = {
        "train": {"version": "1", "accuracy": 0.93},
        "promote": {"version": "1"},
        "healthy": {"version": "1", "accuracy": 0.94, "verdict": "healthy", "labels": 600},
        "drift": {"version": "1", "accuracy": 0.64, "verdict": "retrain", "labels": 1500},
        "retrain": {"version": "2", "previous": "1"},
        "recovery": {"version": "2", "accuracy": 0.91, "verdict": "healthy", "labels": 600},
        "picture": {"picture": picture, "run_id": "1f"},
    }
    story = Story(acts=[Act(name=name, begun=1e9, seconds=2.0, figures=figures[name]) for name in names])
    story.note("verdict on version 1: retrain", 1e9 + 2)
    story.note("version 1 is in Production", 1e9)
    return story


ALL = tuple(name for name, _, _ in ACTS)


def test_the_summary_tells_accuracies_verdicts_in_order_and_what_came_back() -> None:
    summary = played(ALL).summary()
    assert summary["accuracy"] == {"healthy": 0.94, "drift": 0.64, "recovery": 0.91}
    assert summary["verdicts"] == ["healthy", "retrain", "healthy"]
    assert summary["versions"] == ["1", "1", "2"]
    assert summary["recovered"] == pytest.approx(0.9)
    assert next(event["what"] for event in summary["events"]) == "version 1 is in Production"
    assert summary["seconds"].keys() == set(ALL)
    assert summary["picture"] == "demo.png"


def test_nothing_has_come_back_before_the_end() -> None:
    assert played(ALL[:4]).summary()["recovered"] is None


def test_an_event_is_noted_once_however_often_its_act_is_begun() -> None:
    story = Story()
    for at in (3.0, 5.0):
        story.note("the light grows dim", at)
    assert story.events == [(3.0, "the light grows dim")]


def test_a_story_is_kept_and_one_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    story = played(ALL[:3])
    write_story(tmp_path, story)
    assert read_story(tmp_path) == story
    (tmp_path / "demo.json").write_text("{")
    assert read_story(tmp_path) == Story()


def test_played_to_its_end_it_shows_what_came_of_it_and_starts_nothing(
    labline: Callable[..., Ended], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    write_story(store, played(ALL))
    again = labline("demo", "--json", store=store)
    assert again.code == 0, again.err
    assert again.summary == played(ALL).summary()
    assert "90% came back" in again.err
    assert not (store / "up.json").exists() and not (store / "mlflow").exists()


def test_a_command_that_is_refused_is_told_in_its_own_words() -> None:
    with pytest.raises(BadInput, match="labline run: .*did you mean 'surface'"):
        run_labline(["run", "surfce"], os.environ)


@pytest.mark.skipif("LABLINE_DEMO" not in os.environ, reason="takes minutes: set LABLINE_DEMO=1")
def test_from_nothing_to_the_closed_loop(labline: Callable[..., Ended], tmp_path: Path) -> None:
    mlflow, prefect, port = free_ports(3)
    ended = labline("demo", "--json", f"--mlflow-port={mlflow}", f"--prefect-port={prefect}", f"--port={port}")
    assert ended.code == 0, ended.err
    summary = ended.summary
    assert summary["verdicts"][:2] == ["healthy", "retrain"] and summary["verdicts"][2] in ("healthy", "watch")
    assert summary["versions"] == ["1", "1", "2"]
    assert summary["recovered"] >= 0.9
    assert Path(summary["picture"]).stat().st_size > 10_000
    ours = str(tmp_path / "store")
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if ours in " ".join(process.info["cmdline"] or [])
    ]
